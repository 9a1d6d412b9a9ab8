#ifndef INTERCEPTOR_PIN_H
#define INTERCEPTOR_PIN_H
#include <stdint.h>
#endif
