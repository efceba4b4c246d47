/* Text from a model, byte by byte. */
#ifndef BOBBIN_TOOLS_SAMPLER_H
#define BOBBIN_TOOLS_SAMPLER_H

#include "bobbin.h"

typedef struct bb_sampling {
    const char *prompt; /* "": a line break, which is not written */
    int64_t tokens;     /* bytes to add */
    double temperature; /* 0: always the likeliest byte */
    int64_t top_k;      /* draw from the k likeliest bytes only; 0: all */
    uint64_t seed;
    bool plain; /* write '?' for control characters, which could disturb a terminal */
} bb_sampling;

/* Writes the prompt and what the model adds to `file`, each byte as soon as it is there. */
bb_status bb_sample(bb_nn_transformer *model, const bb_sampling *sampling, FILE *file);

#endif
