/* The supervisor's end of an agent: start it, ask it. Everything here may run on any thread, without Python's lock. */
#ifndef INTERCEPTOR_AGENTLINK_H
#define INTERCEPTOR_AGENTLINK_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "agent_wire.h"

struct ic_agent {
	int pid;
	int pidfd;
	int socket;
	struct agent_note *note; /* see agent_wire.h; null once it was buried */
	int cpu;             /* to which it is bound; -1: to none. Whoever has the agent for itself changes it */
};

/* Starts the executable in `memfd` with `null` at descriptors 0 to 2 and its end of the link at 3, nothing else open.
 * Receiving on the link gives up after `patience_us`. 0 or a negative errno. */
int ic_agent_spawn(int memfd, int null, int patience_us, struct ic_agent *agent);

/* Lets go of what an agent that has ended leaves. Idempotent. */
void ic_agent_bury(struct ic_agent *agent);

/* Sends one request and receives its reply. The journal is told, with the agent's pid for its number. 1: replied; 0: no reply within
 * the link's patience, go on with ic_agent_wait();
 * else a negative errno: -EPIPE when the request was not taken, -ECONNRESET when the agent ended before it replied,
 * -EPROTO for what is no reply to this request. */
int ic_agent_call(struct ic_agent *agent, const void *request, size_t size, const int *fds, unsigned count, struct agent_reply *reply);

/* Closes what came with a reply: whoever asked for nothing of the kind keeps nothing of it. */
void ic_agent_drop_given(struct agent_reply *reply);

/* Goes on waiting for the reply to the request with `cookie`; results as ic_agent_call(). With `stay` it is not taken out of the
 * socket, where the next supervisor finds it: so for AGENT_FSMOUNT, also by ic_agent_call(). */
int ic_agent_wait(int socket, uint64_t cookie, struct agent_reply *reply, int timeout_ms, int stay);

/* Takes out a reply that stayed; with it goes the socket's copy of what it brought. */
void ic_agent_settle(int socket);

#endif
