#include "pin.h"
