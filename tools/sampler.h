/* Text from a model, token by token. */
#ifndef BOBBIN_TOOLS_SAMPLER_H
#define BOBBIN_TOOLS_SAMPLER_H

#include "bobbin.h"
#include "tools/tokenizer.h"

typedef struct bb_sampling {
    const char *prompt; /* "": a line break, which is not written */
    int64_t tokens;     /* to add, at most */
    double temperature; /* 0: always the likeliest */
    int64_t top_k;      /* draw from the k likeliest only; 0: all */
    uint64_t seed;
    bool plain; /* write '?' for control characters, which could disturb a terminal */
    const bb_tokenizer *tokenizer; /* NULL: tokens are bytes */
    const bb_ints *ends;           /* tokens after which a text ends; NULL: none */
} bb_sampling;

/* Writes the prompt and what the model adds to `file`, each token as soon as it is there. A text
 * that outgrows the model's positions goes on from the later half of what it holds. */
bb_status bb_sample(bb_nn_transformer *model, const bb_sampling *sampling, FILE *file);

#endif
