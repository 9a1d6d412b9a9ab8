#ifndef INTERCEPTOR_MOUNTAPI_H
#define INTERCEPTOR_MOUNTAPI_H
#include <stdint.h>
#endif
