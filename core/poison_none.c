/* Without AddressSanitizer there is nothing to mark; poison_asan.c is the other half. */
#include "core/impl.h"

void bb_poison(void *block, size_t bytes) { (void)block, (void)bytes; }
void bb_unpoison(void *block, size_t bytes) { (void)block, (void)bytes; }
