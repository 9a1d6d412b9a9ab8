/* The notification path: receive, look up the compiled decision table, answer; back to Python only for a miss. */
#ifndef INTERCEPTOR_NOTIFY_H
#define INTERCEPTOR_NOTIFY_H
#include <stdint.h>
int ic_set_sync_wake_up(int notifier);
#endif
