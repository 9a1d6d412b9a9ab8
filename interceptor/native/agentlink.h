#ifndef INTERCEPTOR_AGENTLINK_H
#define INTERCEPTOR_AGENTLINK_H
#include <stdint.h>
#endif
