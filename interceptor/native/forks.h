/* Between clone(2) and execve(2) a child has copies of all our descriptors, FD_CLOEXEC or not. One of a file in a container keeps
 * its mount busy there, for umount2(2), although we have closed ours. So who has closed what is a container's, and is about to
 * answer its call, waits for children that are that young. Nobody waits where there are none.
 */
#ifndef INTERCEPTOR_FORKS_H
#define INTERCEPTOR_FORKS_H

/* Around whatever makes a child that does not share our descriptors (CLONE_FILES); until it has executed its program. */
void ic_fork_begin(void);
void ic_fork_end(void);
/* What was closed before is open nowhere when this returns. Not between the two above. */
void ic_forks_settle(void);

#endif
