/* Vectors of as many float32 as the processor adds at once. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define ALWAYS static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4)));

ALWAYS vec splat(float x) { return x - (vec){0}; }

ALWAYS vec copies(float x) { /* of its bits, which need not be a number's */
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (vec)(bits - (ints){0});
}

ALWAYS vec chosen(ints which, vec yes, vec no) { return (vec)(((ints)yes & which) | ((ints)no & ~which)); }

ALWAYS float total(vec x) { /* by halves */
    typedef float eight __attribute__((vector_size(32))), four __attribute__((vector_size(16)));
    eight wide[LANES / 8];
    memcpy(wide, &x, sizeof x);
    eight all = LANES == 16 ? wide[0] + wide[LANES / 8 - 1] : wide[0];
    four low, high;
    memcpy(&low, &all, sizeof low);
    memcpy(&high, (char *)&all + sizeof low, sizeof high);
    low += high;
    return (low[0] + low[2]) + (low[1] + low[3]);
}

ALWAYS vec exponential(vec x) { /* Cephes' expf, 2 ulp; 0 below -87, and no more than at 88 */
    const vec low = splat(-87.0f), high = splat(88.0f);
    const vec bounded = chosen(x < low, low, chosen(x > high, high, x));
    const vec scaled = bounded * 1.44269504f, shifted = scaled + 12582912.0f; /* rounds to the nearest integer */
    const vec whole = shifted - 12582912.0f;
    const vec rest = bounded - whole * 0.693359375f + whole * 2.12194440e-4f;
    vec found = splat(1.9875691500e-4f);
    found = found * rest + 1.3981999507e-3f;
    found = found * rest + 8.3334519073e-3f;
    found = found * rest + 4.1665795894e-2f;
    found = found * rest + 1.6666665459e-1f;
    found = found * rest + 5.0000001201e-1f;
    found = found * rest * rest + rest + 1.0f;
    const ints power = (__builtin_convertvector(whole, ints) + 127) << 23;
    return chosen(x < low, (vec){0}, found * (vec)power);
}
