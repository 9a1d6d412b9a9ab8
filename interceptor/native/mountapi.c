#include "mountapi.h"
