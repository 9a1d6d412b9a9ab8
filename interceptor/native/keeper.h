/* The keeper: its link and its loop (keeper.c), what it holds (keeper_store.c), the supervisor (keeper_supervisor.c), and its
 * service manager, where it has one (keeper_manager.c).
 */
#ifndef INTERCEPTOR_KEEPER_H
#define INTERCEPTOR_KEEPER_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* `interceptor-runc keep`; the exit status. */
int keep_main(int argc, char **argv);

/* CLOCK_MONOTONIC, ms. */
int64_t now(void);
/* To standard error; `loudly`: to the kernel's log as well. */
void say(bool loudly, const char *pattern, ...) __attribute__((format(printf, 2, 3)));

/* ---- keeper_store.c ---- */

struct held {
	char *name; /* kind NUL key NUL note NUL */
	int fd;
	bool told;  /* the supervisor that runs has it */
};
extern struct store {
	struct held *held;
	size_t count, room, untold, connections;
} store;

size_t name_length(const char *name);
bool is_kind(const struct held *held, const char *kind);
/* In the place of what had its kind and key. Takes ownership of `fd`. */
void keep(const char *name, int fd, bool told);
/* What has the kind and key of `name`, if it is held. */
void drop(const char *name);
/* Whether somebody would miss us: more than the sockets, which the next one can bind again. */
bool holds_anything(void);
/* The supervisor that runs has nothing yet. */
void tell_again(void);

/* ---- keeper_supervisor.c ---- */

extern struct supervisor {
	pid_t pid;
	int link, pidfd, ready;
	bool service, ours, bye; /* it is a service; our child; its end is meant, and that of us */
	int64_t served, next;    /* when it said that it serves, or 0; when to start the next one; ms */
	unsigned failures;
	char program[PATH_MAX], former[PATH_MAX];
	enum { NO_TRIAL, ANNOUNCED, TRIED } trial;
	int64_t trial_end;
} supervisor;

/* False when that failed; `next` says when to try again. */
bool supervisor_start(void);
/* A supervisor whose keeper died, the process `pid`, started us, and tells us over `link` what to keep. Fails with the reason. */
void supervisor_adopt(void);
/* It has ended. Whether there is to be another: unless it meant to end, or never came up and nothing is lost. */
bool supervisor_ended(bool wanted);
/* It has said that it serves; that `program` (empty: the same) is to follow it. */
void supervisor_serves(void);
void supervisor_follows(const char *program);
void supervisor_signal(int number);
/* When the next start or judgement is due, ms; INT64_MAX: never. */
int64_t supervisor_due(void);
/* Ends a new program that has not served in time. */
void supervisor_judge(void);

/* ---- keeper_manager.c ---- */

/* What the service manager keeps for the next keeper. `name` is kind NUL key NUL note NUL. */
void manager_keeps(const char *name, int fd, bool stored);
/* Keeps each descriptor that the manager stored for an earlier keeper. */
void manager_gives_back(void);
void manager_tell(const char *text, int pass);

#endif
