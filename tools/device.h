/* What --device may say: every command that takes the flag uses these. */
#ifndef BOBBIN_TOOLS_DEVICE_H
#define BOBBIN_TOOLS_DEVICE_H

#include "bobbin.h"

/* cuda-sim is the CUDA backend in the host simulation, which builds with tests have beside the
 * program (cuda-sim/). */
#define BB_DEVICE_CHOICES "cpu|cuda|cuda-sim"

/* The device of a choice's index; where it cannot serve, a sticky error that names the flag, and
 * the CPU. */
bb_device bb_choose_device(bb_context *ctx, int choice);
const char *bb_device_word(int choice);

#endif
