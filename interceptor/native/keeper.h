/* The keeper (keeper.c) and its service manager, where it has one (keeper_manager.c). */
#ifndef INTERCEPTOR_KEEPER_H
#define INTERCEPTOR_KEEPER_H

#include <stdbool.h>

/* `interceptor-runc keep`; the exit status. */
int keep_main(int argc, char **argv);

/* What the service manager keeps for the next keeper. `name` is kind NUL key NUL note NUL. */
void manager_keeps(const char *name, int fd, bool stored);
/* Calls `keep` with each descriptor that the manager stored for an earlier keeper. */
void manager_gives_back(void (*keep)(const char *name, int fd, bool told));
void manager_tell(const char *text, int pass);

#endif
