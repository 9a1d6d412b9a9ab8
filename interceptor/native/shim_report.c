/* How interceptor-runc tells that something failed: to stderr, and to the file that --log names, in runc's two formats. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

struct report report;

void *allocate(void *old, size_t size)
{
	static const char message[] = "interceptor-runc: out of memory\n";
	void *memory = realloc(old, size);
	if (!memory)
		_exit(write(STDERR_FILENO, message, sizeof message - 1) > 0 ? 1 : 1);
	return memory;
}

static char *vformat(const char *pattern, va_list arguments)
{
	va_list again;
	va_copy(again, arguments);
	size_t size = (size_t)vsnprintf(NULL, 0, pattern, arguments) + 1;
	char *string = allocate(NULL, size);
	vsnprintf(string, size, pattern, again);
	va_end(again);
	return string;
}

char *format(const char *pattern, ...)
{
	va_list arguments;
	va_start(arguments, pattern);
	char *string = vformat(pattern, arguments);
	va_end(arguments);
	return string;
}

/* One line as logrus, runc's logger, writes it; its text format quotes as JSON does, for all that we say. */
static void add_log_line(struct text *line, const char *message)
{
	time_t now = time(NULL);
	struct tm utc;
	char stamp[32];
	strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
	text_adds(line, report.json ? "{\"level\":\"error\",\"msg\":" : format("time=\"%s\" level=error msg=", stamp));
	json_add_string(line, message);
	text_adds(line, report.json ? format(",\"time\":\"%s\"}\n", stamp) : "\n");
}

static void write_log(const char *message)
{
	struct text line = {0};
	int fd = open(report.log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
	add_log_line(&line, message);
	if (fd < 0 || write(fd, line.data, line.length) != (ssize_t)line.length)
		fprintf(stderr, "interceptor-runc: --log %s: %s\n", report.log, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void tell(const char *pattern, va_list arguments)
{
	char *message = vformat(pattern, arguments);
	message = report.command ? format("interceptor-runc %s: %s", report.command, message) : format("interceptor-runc: %s", message);
	fprintf(stderr, "%s\n", message);
	if (report.log)
		write_log(message);
}

void complain(const char *pattern, ...)
{
	va_list arguments;
	va_start(arguments, pattern);
	tell(pattern, arguments);
	va_end(arguments);
}

void fail(const char *pattern, ...)
{
	va_list arguments;
	va_start(arguments, pattern);
	tell(pattern, arguments);
	va_end(arguments);
	exit(1);
}
