/* Under AddressSanitizer, storage in the pool must not be touched: a pointer kept past its tensor
 * is reported. */
#include <sanitizer/asan_interface.h>

#include "core/impl.h"

void bb_poison(void *block, size_t bytes) { ASAN_POISON_MEMORY_REGION(block, bytes); }
void bb_unpoison(void *block, size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(block, bytes); }
