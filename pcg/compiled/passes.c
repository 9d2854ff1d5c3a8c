/* Passes of a decoder of Llama's line over few rows, on one thread of a CPU.
 *
 * In float32 weights are read as they are stored (float16, bfloat16 or float32) and widened, which loses nothing. In
 * bfloat16, on processors that multiply it, weights, keys, values and whatever meets a weight or a key are rounded to
 * it; sums and all between products stay float32. A draft's weights may be 8-bit integers, by which what meets them is
 * multiplied as 8-bit integers too. Either way every number is summed in one order, whatever stands beside it in a
 * pass: a pass of five tokens gives, bit for bit, what five passes of one give.
 *
 * Called by pcg/models/native.py.
 */

#include "sampling.h"
#include "vectors.h"

#ifdef __AVX512F__
#define MOST_SUMS 24 /* vectors that stay in registers beside what they are made of */
#else
#define MOST_SUMS 12
#endif
#define GROUP (4 * LANES) /* outputs whose weights lie side by side */
#define MOST_ROWS 6       /* at once; more are taken in even parts */

typedef int16_t shorts __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES), aligned(2)));

/* PAIRS: bfloat16, of two inputs side by side, times bfloat16. QUADS: int8, of four inputs, times uint8. */
enum kind { FLOAT16, BFLOAT16, FLOAT32, PAIRS, QUADS };
static const int SIZE[] = {2, 2, 4, 4, 4}, INPUTS[] = {1, 1, 1, 2, 4}; /* bytes and inputs of what lies in one place */

typedef struct {
    const void *weight;     /* [outputs / GROUP][inputs / n][GROUP][n], n inputs in one place */
    const float *bias;      /* or null */
    const float *scales;    /* QUADS: of each output's weights */
    const int32_t *offsets; /* QUADS: what each output gets too much, as inputs are stored plus ZERO */
    int32_t inputs, outputs, kind;
} Matrix;
#define ZERO 128 /* as which 0 is stored in an input of QUADS */

typedef struct {
    const float *attention_norm, *mlp_norm, *head_norms; /* the last [heads + kv_heads][dim], or null */
    Matrix qkv, out, gate_up, down;
} Layer;

typedef struct {
    int32_t width, hidden, heads, kv_heads, dim;
    float eps;
    int32_t bfloat16; /* whether keys, values and the states that are kept are */
} Sizes;

/* Where a pass writes and what it sees. Token i of a row is written at the row's length + i, turned as position
 * length + dropped + depths[i], and sees what was there before the pass and the tokens j of it with sees[i][j]. */
typedef struct {
    int32_t rows, fresh;
    const int64_t *lengths, *dropped; /* of each row; entries that were left out lie before its length */
    const int32_t *depths;
    const uint8_t *sees; /* [fresh][fresh] */
    const float *rope;   /* [positions][dim / 2][2]: cos and sin */
    char *states;        /* [layers][rows][2 * kv_heads][capacity][dim] */
    int64_t layer_step, row_step, head_step;
    const int32_t *reads; /* states that are kept; state i comes after i layers, the last is normed */
    int64_t read_count;
    char *hidden; /* [rows][reads][capacity][width] */
    int64_t hidden_row_step, hidden_read_step;
} Pass;

ALWAYS vec widened(const char *from, int kind, long at) {
    if (kind == FLOAT32 || kind == PAIRS || kind == QUADS)
        return *(const vec *)(from + 4 * at);
    halves bits = *(const halves *)(from + 2 * at);
    if (kind == BFLOAT16)
        return (vec)(__builtin_convertvector(bits, ints) << 16);
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps((__m128i)bits);
#else
    vec out;
    for (int i = 0; i < LANES; i++) {
        _Float16 x;
        memcpy(&x, (const uint16_t *)(from + 2 * at) + i, 2);
        out[i] = x;
    }
    return out;
#endif
}

ALWAYS uint16_t rounded(float x) { /* to the nearest bfloat16, to even between two */
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

ALWAYS float kept(int bfloat16, const char *from, long at) {
    float x;
    if (!bfloat16)
        return ((const float *)from)[at];
    const uint32_t bits = (uint32_t)((const uint16_t *)from)[at] << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Numbers as they are kept: to[at ..) = from. */
static void store(int bfloat16, char *to, long at, const float *from, long count) {
    if (!bfloat16)
        memcpy(to + 4 * at, from, sizeof(float) * count);
    else
        for (long i = 0; i < count; i++)
            ((uint16_t *)to)[at + i] = rounded(from[i]);
}

#ifdef __clang__
#define PICKED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICKED(a, b, ...) __builtin_shuffle(a, b, (ints){__VA_ARGS__})
#endif
#if LANES == 16
#define HALVES_0 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define OTHERS_0 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#define HALVES_1 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define OTHERS_1 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define HALVES_2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define OTHERS_2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define HALVES_3 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define OTHERS_3 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#else
#define HALVES_0 0, 1, 2, 3, 8, 9, 10, 11
#define OTHERS_0 4, 5, 6, 7, 12, 13, 14, 15
#define HALVES_1 0, 1, 8, 9, 4, 5, 12, 13
#define OTHERS_1 2, 3, 10, 11, 6, 7, 14, 15
#define HALVES_2 0, 8, 2, 10, 4, 12, 6, 14
#define OTHERS_2 1, 9, 3, 11, 5, 13, 7, 15
#endif
#define MERGED(stage, some)                                                                                            \
    for (int i = 0; i < some; i++)                                                                                     \
        x[i] = PICKED(x[i], x[i + some], HALVES_##stage) + PICKED(x[i], x[i + some], OTHERS_##stage);

/* The totals of LANES vectors side by side, each by halves. */
ALWAYS vec totals(vec *x) {
#if LANES == 16
    MERGED(0, 8) MERGED(1, 4) MERGED(2, 2) MERGED(3, 1)
#else
    MERGED(0, 4) MERGED(1, 2) MERGED(2, 1)
#endif
    return x[0];
}

/* sum + x[0] * y[0] + x[1] * y[1], of the two bfloat16 in each place of x and y. */
ALWAYS vec added_pairs(vec sum, vec x, vec y) {
#ifdef __AVX512BF16__
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)y);
#else
    return sum + 0 * x * y; /* never called: can_pair() says so */
#endif
}

/* x[0] * y[0] + x[1] * y[1], of the two int16 in each place. */
ALWAYS ints pair_sums(ints x, ints y) {
#if defined(__AVX512BW__)
    return (ints)_mm512_madd_epi16((__m512i)x, (__m512i)y);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    return (ints)_mm256_madd_epi16((__m256i)x, (__m256i)y);
#else
    return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

/* sum + x[0] * y[0] + ... + x[3] * y[3] as integers, of the four uint8 in each place of x and int8 of y. */
ALWAYS vec added_quads(vec sum, vec x, vec y) {
#ifdef __AVX512VNNI__
    return (vec)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)y);
#else
    const shorts twos = (shorts)y, low = twos << 8 >> 8, high = twos >> 8; /* of y: 0 and 2, 1 and 3 */
    return (vec)((ints)sum + pair_sums((ints)x & 0xff00ff, (ints)low) + pair_sums((ints)x >> 8 & 0xff00ff, (ints)high));
#endif
}

/* y[r][0 .. vectors * LANES) = sum over k of x[k][r] * w[k][..]: rows * vectors sums that stay in registers. */
ALWAYS void tile(int rows, int vectors, int kind, const float *x, const char *w, long w_step, long count, float *y,
                 long y_step) {
    vec sums[MOST_ROWS][4];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 6
        for (int j = 0; j < vectors; j++)
            sums[r][j] = (vec){0};
    for (long k = 0; k < count; k++) {
        vec weights[4];
#pragma GCC unroll 6
        for (int j = 0; j < vectors; j++)
            weights[j] = widened(w, kind, k * w_step + j * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            vec each = copies(x[k * rows + r]);
#pragma GCC unroll 6
            for (int j = 0; j < vectors; j++)
                sums[r][j] = kind == PAIRS   ? added_pairs(sums[r][j], each, weights[j])
                             : kind == QUADS ? added_quads(sums[r][j], each, weights[j])
                                             : sums[r][j] + each * weights[j];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 6
        for (int j = 0; j < vectors; j++)
            *(vec *)(y + r * y_step + j * LANES) = sums[r][j];
}

/* As many columns at once as registers hold sums of. */
ALWAYS void tiles(int rows, int kind, const float *x, const char *w, long w_step, long count, float *y, long y_step,
                  int columns) {
    const int size = SIZE[kind], once = MOST_SUMS / rows < 4 ? MOST_SUMS / rows : 4;
    const int vectors = once >= 4 ? 4 : once >= 2 ? 2 : 1;
    int at = 0;
    for (; at + vectors * LANES <= columns; at += vectors * LANES)
        tile(rows, vectors, kind, x, w + (long)size * at, w_step, count, y + at, y_step);
    for (; at < columns; at += LANES)
        tile(rows, 1, kind, x, w + (long)size * at, w_step, count, y + at, y_step);
}

#define CASES(rows, kind)                                                                                              \
    case rows:                                                                                                         \
        tiles(rows, kind, x, w, w_step, count, y, y_step, columns);                                            \
        break;
#define SUMS(name, kind)                                                                                               \
    static void name(int rows, const float *x, const char *w, long w_step, long count, float *y, long y_step,          \
                     int columns) {                                                                                    \
        switch (rows) {                                                                                                \
            CASES(1, kind) CASES(2, kind) CASES(3, kind) CASES(4, kind) CASES(5, kind) CASES(6, kind)                  \
        }                                                                                                              \
    }
SUMS(sums_float16, FLOAT16)
SUMS(sums_bfloat16, BFLOAT16)
SUMS(sums_float32, FLOAT32)
SUMS(sums_pairs, PAIRS)
SUMS(sums_quads, QUADS)

typedef void (*Sums)(int, const float *, const char *, long, long, float *, long, int);
static const Sums SUMS_OF[] = {sums_float16, sums_bfloat16, sums_float32, sums_pairs, sums_quads};

/* How many of these rows are taken at once. */
static int part(int rows) {
    const int parts = (rows + MOST_ROWS - 1) / MOST_ROWS;
    return (rows + parts - 1) / parts;
}

static float largest(const float *x, long count) { /* of the magnitudes; NaN where one is not finite */
    vec found = {0}, spoilt = {0};
    float most = 0;
    long i = 0;
    for (; i + LANES <= count; i += LANES) {
        const vec each = *(const vec *)(x + i), size = chosen(each < 0, -each, each);
        found = chosen(size > found, size, found);
        spoilt += 0 * each;
    }
    for (int lane = 0; lane < LANES; lane++)
        most = found[lane] > most ? found[lane] : most;
    float rest = total(spoilt);
    for (; i < count; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        rest += 0 * x[i];
    }
    return most + rest;
}

/* The inputs of a row as products read them, side by side with those of the other rows: to[step * rows].
 * Returns the scale of QUADS. */
static float arranged(int kind, const float *from, long inputs, float *to, int rows) {
    if (kind == PAIRS) {
        for (long k = 0; k < inputs; k += 2, to += rows) {
            const uint32_t pair = rounded(from[k]) | (uint32_t)rounded(from[k + 1]) << 16;
            memcpy(to, &pair, sizeof pair);
        }
        return 1;
    }
    if (kind != QUADS) {
        for (long k = 0; k < inputs; k++, to += rows)
            *to = from[k];
        return 1;
    }
    const float most = largest(from, inputs);
    const float per = most > 0 ? 127 / most : 0;
    uint8_t bytes[inputs];
    memset(bytes, ZERO, inputs);
    for (long k = 0; per > 0 && k < inputs; k++)
        bytes[k] = (int32_t)(from[k] * per + (ZERO + .5f)); /* to the nearest integer, as this is above 0 */
    for (long k = 0; k < inputs; k += 4, to += rows)
        memcpy(to, bytes + k, 4);
    return most / 127;
}

/* y (+)= x W^T + bias. Each group of weights is read once, whatever the rows. Returns whether there was memory. */
int product(const Matrix *m, const float *x, int rows, float *y, int add) {
    const long inputs = m->inputs, steps = inputs / INPUTS[m->kind];
    const long step = (long)SIZE[m->kind] * GROUP * steps;
    float made[MOST_ROWS * GROUP], scales[rows];
    float *turned = malloc(sizeof(float) * steps * rows); /* [steps][rows], by parts of them */
    if (!turned)
        return 0;
    for (int row = 0, some; row < rows; row += some) {
        some = part(rows - row);
        for (int r = 0; r < some; r++)
            scales[row + r] = arranged(m->kind, x + (row + r) * inputs, inputs, turned + row * steps + r, some);
    }
    for (long first = 0; first < m->outputs; first += GROUP) {
        const char *w = (const char *)m->weight + first / GROUP * step;
        const long left = m->outputs - first, wide = left < GROUP ? left : GROUP;
        for (int row = 0, some; row < rows; row += some) {
            some = part(rows - row);
            SUMS_OF[m->kind](some, turned + row * steps, w, GROUP, steps, made, GROUP, GROUP);
            for (int r = 0; r < some; r++) {
                float *to = y + (long)(row + r) * m->outputs + first, *from = made + r * GROUP;
                for (long i = 0; m->kind == QUADS && i < wide; i++) {
                    int32_t sum;
                    memcpy(&sum, from + i, sizeof sum);
                    from[i] = (sum - m->offsets[first + i]) * (m->scales[first + i] * scales[row + r]);
                }
                for (long i = 0; i < wide; i++)
                    to[i] = from[i] + (m->bias ? m->bias[first + i] : 0) + (add ? to[i] : 0);
            }
        }
    }
    free(turned);
    return 1;
}

/* Weights carry the square root of the width. */
void rms(const Sizes *s, const float *x, int rows, const float *weight, float *y, int64_t y_step) {
    for (int r = 0; r < rows; r++, x += s->width, y += y_step) {
        vec squares = {0};
        float rest = s->width * s->eps;
        long i = 0;
        for (; i + LANES <= s->width; i += LANES)
            squares += *(const vec *)(x + i) * *(const vec *)(x + i);
        for (; i < s->width; i++)
            rest += x[i] * x[i];
        const float scale = 1 / sqrtf(total(squares) + rest);
        for (i = 0; i < s->width; i++)
            y[i] = x[i] * scale * weight[i];
    }
}

static void turn(const Sizes *s, const float *angles, const float *norms, float *head) {
    if (norms) {
        float square = 0;
        for (int i = 0; i < s->dim; i++)
            square += head[i] * head[i];
        const float scale = 1 / sqrtf(square / s->dim + s->eps);
        for (int i = 0; i < s->dim; i++)
            head[i] *= scale * norms[i];
    }
    for (int i = 0; i < s->dim; i += 2) {
        const float real = head[i], imaginary = head[i + 1];
        head[i] = real * angles[i] - imaginary * angles[i + 1];
        head[i + 1] = real * angles[i + 1] + imaginary * angles[i];
    }
}

/* Of a query with LANES keys, of which there are some only: with the last one for those beyond. */
ALWAYS vec products(int vectors, int pairs, const float *query, const char *keys, int some) {
    vec each[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        const vec *key = (const vec *)keys + (long)vectors * (i < some ? i : some - 1);
        each[i] = (vec){0};
#pragma GCC unroll 8
        for (int d = 0; d < vectors; d++) {
            const vec asked = ((const vec *)query)[d];
            each[i] = pairs ? added_pairs(each[i], asked, key[d]) : each[i] + asked * key[d];
        }
    }
    return totals(each);
}

/* Up to MOST_ROWS queries of one head over its keys and values. */
static void mix(const Sizes *s, const float *const *queries, const int *token, int count, const char *keys,
                const char *values, long before, const Pass *p, float *scores, float *out) {
    const long end = before + p->fresh, room = (end + LANES - 1) / LANES * LANES;
    const float scale = 1 / sqrtf(s->dim);
    float most[MOST_ROWS];
    const long step = s->bfloat16 ? 2 * s->dim : 4 * s->dim;
    vec highest[MOST_ROWS];
    for (int q = 0; q < count; q++)
        highest[q] = splat(-INFINITY);
    for (long n = 0; n < room; n += LANES)
        for (int q = 0; q < count; q++) {
            const int vectors = step / (4 * LANES), left = end - n < LANES ? end - n : LANES;
            const char *at = keys + step * n;
            vec found = scale * (s->bfloat16 ? vectors == 2   ? products(2, 1, queries[q], at, left)
                                               : vectors == 4 ? products(4, 1, queries[q], at, left)
                                                              : products(vectors, 1, queries[q], at, left)
                                 : vectors == 4 ? products(4, 0, queries[q], at, left)
                                 : vectors == 8 ? products(8, 0, queries[q], at, left)
                                                : products(vectors, 0, queries[q], at, left));
            for (long i = before > n ? before - n : 0; i < LANES; i++) /* tokens of the pass, and none */
                if (n + i >= end || !p->sees[token[q] * p->fresh + n + i - before])
                    found[i] = -INFINITY;
            *(vec *)(scores + q * room + n) = found;
            highest[q] = chosen(found > highest[q], found, highest[q]);
        }
    for (int q = 0; q < count; q++) {
        most[q] = highest[q][0];
        for (int i = 1; i < LANES; i++)
            most[q] = highest[q][i] > most[q] ? highest[q][i] : most[q];
    }
    float sizes[MOST_ROWS], *turned = scores + MOST_ROWS * room; /* [end][count] */
    for (int q = 0; q < count; q++) {
        vec sum = {0};
        for (long n = 0; n < room; n += LANES) {
            vec *at = (vec *)(scores + q * room + n);
            sum += *at = exponential(*at - most[q]);
        }
        sizes[q] = 1 / total(sum);
        for (long n = 0; n < end; n++)
            turned[n * count + q] = scores[q * room + n];
    }
    float mixed[MOST_ROWS * s->dim];
    SUMS_OF[s->bfloat16 ? BFLOAT16 : FLOAT32](count, turned, values, s->dim, end, mixed, s->dim, s->dim);
    for (int q = 0; q < count; q++)
        for (int d = 0; d < s->dim; d++)
            out[q * s->dim + d] = mixed[q * s->dim + d] * sizes[q];
}

/* x += what attention makes of read. qkv and mixed: room for the pass. */
static void attend(const Sizes *s, const Layer *l, const Pass *p, long depth, const float *read, float *qkv,
                   float *mixed, float *scores, float *x) {
    const int heads = s->heads + 2 * s->kv_heads, shared = s->heads / s->kv_heads;
    const long wide = (long)heads * s->dim, size = s->bfloat16 ? 2 : 4;
    product(&l->qkv, read, p->rows * p->fresh, qkv, 0);
    for (int row = 0; row < p->rows; row++) {
        float *fresh = qkv + (long)row * p->fresh * wide;
        char *states = p->states + size * (depth * p->layer_step + row * p->row_step);
        for (int i = 0; i < p->fresh; i++) {
            const float *angles = p->rope + (p->lengths[row] + p->dropped[row] + p->depths[i]) * s->dim;
            for (int h = 0; h < heads; h++) {
                float *head = fresh + i * wide + (long)h * s->dim;
                if (h < s->heads + s->kv_heads)
                    turn(s, angles, l->head_norms ? l->head_norms + h * s->dim : 0, head);
                if (h >= s->heads)
                    store(s->bfloat16, states, (h - s->heads) * p->head_step + (p->lengths[row] + i) * s->dim, head,
                          s->dim);
                else if (s->bfloat16) /* in place: no number is written before it is read */
                    store(1, (char *)head, 0, head, s->dim);
            }
        }
        for (int h = 0; h < s->kv_heads; h++) {
            const char *keys = states + size * h * p->head_step, *values = keys + size * s->kv_heads * p->head_step;
            const float *queries[MOST_ROWS];
            int token[MOST_ROWS];
            for (int first = 0, count; first < shared * p->fresh; first += count) {
                count = part(shared * p->fresh - first);
                float made[MOST_ROWS * s->dim];
                for (int q = 0; q < count; q++) {
                    token[q] = (first + q) / shared;
                    queries[q] = fresh + token[q] * wide + (long)(h * shared + (first + q) % shared) * s->dim;
                }
                mix(s, queries, token, count, keys, values, p->lengths[row], p, scores, made);
                for (int q = 0; q < count; q++)
                    memcpy(mixed + ((long)row * p->fresh + token[q]) * s->heads * s->dim +
                               (long)(h * shared + (first + q) % shared) * s->dim,
                           made + q * s->dim, sizeof(float) * s->dim);
            }
        }
    }
    product(&l->out, mixed, p->rows * p->fresh, x, 1);
}

/* x += what the MLP makes of it. */
static void feed(const Sizes *s, const Layer *l, int rows, float *normed, float *gates, float *x) {
    rms(s, x, rows, l->mlp_norm, normed, s->width);
    product(&l->gate_up, normed, rows, gates, 0);
    for (int r = 0; r < rows; r++) { /* in place: row r of what is made never lies beyond row r of what it is made of */
        const float *gate = gates + (long)r * 2 * s->hidden, *up = gate + s->hidden;
        float *to = gates + (long)r * s->hidden;
        int i = 0;
        for (; i + LANES <= s->hidden; i += LANES) {
            const vec g = *(const vec *)(gate + i);
            *(vec *)(to + i) = g / (exponential(-g) + 1.0f) * *(const vec *)(up + i);
        }
        for (; i < s->hidden; i++)
            to[i] = gate[i] / (exponential(splat(-gate[i]))[0] + 1.0f) * up[i];
    }
    product(&l->down, gates, rows, x, 1);
}

/* Room for a pass: what is normed (wide numbers a token), then either attention's or the MLP's. */
typedef struct {
    float *normed, *room, *mixed, *scores;
} Room;

static Room made_room(const Sizes *s, const Pass *p, int wide) {
    const long tokens = (long)p->rows * p->fresh, qkv = tokens * (s->heads + 2 * s->kv_heads) * s->dim;
    long longest = 0;
    for (int row = 0; row < p->rows; row++)
        if (p->lengths[row] > longest)
            longest = p->lengths[row];
    const long mixed = tokens * s->heads * s->dim, scores = 2 * MOST_ROWS * (longest + p->fresh + LANES);
    const long attention = qkv + mixed + scores, gates = tokens * 2 * s->hidden;
    float *all = malloc(sizeof(float) * (tokens * wide + (attention > gates ? attention : gates)));
    float *room = all ? all + tokens * wide : 0;
    return all ? (Room){all, room, room + qkv, room + qkv + mixed} : (Room){0};
}

static void keep(const Sizes *s, const Pass *p, const float *x, int depth) {
    for (int i = 0; i < p->read_count; i++)
        if (p->reads[i] == depth)
            for (int row = 0; row < p->rows; row++)
                store(s->bfloat16, p->hidden,
                      row * p->hidden_row_step + i * p->hidden_read_step + p->lengths[row] * s->width,
                      x + (long)row * p->fresh * s->width, (long)p->fresh * s->width);
}

/* x through all layers and the last norm; the states that are read are kept on the way. */
int layers(const Sizes *s, const Layer *l, int count, const float *norm, const Pass *p, float *x) {
    const int tokens = p->rows * p->fresh;
    const Room room = made_room(s, p, s->width);
    if (!room.normed)
        return 0;
    for (int depth = 0; depth < count; depth++, l++) {
        keep(s, p, x, depth);
        rms(s, x, tokens, l->attention_norm, room.normed, s->width);
        attend(s, l, p, depth, room.normed, room.room, room.mixed, room.scores, x);
        feed(s, l, tokens, room.normed, room.room, x);
    }
    rms(s, x, tokens, norm, x, s->width);
    keep(s, p, x, count);
    free(room.normed);
    return 1;
}

/* The layer of a draft that reads the target: attention reads embeddings and states side by side. */
int reading_layer(const Sizes *s, const Layer *l, const float *state_norm, int normed_residual, const Pass *p,
                  const float *embedded, float *x) {
    const int tokens = p->rows * p->fresh;
    const Room room = made_room(s, p, 2 * s->width);
    if (!room.normed)
        return 0;
    rms(s, embedded, tokens, l->attention_norm, room.normed, 2 * s->width);
    rms(s, x, tokens, state_norm, room.normed + s->width, 2 * s->width);
    for (int t = 0; normed_residual && t < tokens; t++)
        memcpy(x + (long)t * s->width, room.normed + (2L * t + 1) * s->width, sizeof(float) * s->width);
    attend(s, l, p, 0, room.normed, room.room, room.mixed, room.scores, x);
    feed(s, l, tokens, room.normed, room.room, x);
    free(room.normed);
    return 1;
}

/* fuse times the states [rows][reads][capacity][width] before each of fresh tokens from lengths on; zero before the
 * first. */
int fused_states(const Matrix *fuse, const char *hidden, int64_t row_step, int64_t read_step, int bfloat16, int width,
                 int rows, int fresh, const int64_t *lengths, float *y) {
    const int reads = fuse->inputs / width;
    float *states = calloc((long)rows * fresh * fuse->inputs, sizeof(float)), *to = states;
    if (!states)
        return 0;
    for (int token = 0; token < rows * fresh; token++) {
        const int row = token / fresh;
        const long before = lengths[row] + token % fresh - 1;
        for (int i = 0; i < reads; i++, to += width)
            for (long k = 0, at = row * row_step + i * read_step + before * width; before >= 0 && k < width; k++)
                to[k] = kept(bfloat16, hidden, at + k);
    }
    const int made = product(fuse, states, rows * fresh, y, 0);
    free(states);
    return made;
}

/* A draft that reads the target, for blocks: it speaks through head, whose outputs are places of the vocabulary. */
typedef struct {
    const Layer *layer;
    const float *state_norm, *norm;
    const Matrix *fuse, *head;
    const int64_t *places; /* or null: all, in order */
    const char *table;     /* embeddings, of model ids */
    const int64_t *ids;    /* the model's id of each token of the vocabulary */
    int32_t table_bfloat16, normed_residual, vocab;
} Draft;

/* The states of the target that a draft reads. */
typedef struct {
    const char *states; /* [rows][reads][capacity][width] */
    int64_t row_step, read_step;
    int32_t bfloat16;
} Hidden;

static void embed(const Draft *d, int64_t id, long width, float *to) {
    for (long k = 0; k < width; k++)
        to[k] = kept(d->table_bfloat16, d->table, id * width + k);
}

/* probs = softmax(logits / temperature), 0 at places that the head has not; logits are changed where it has not all. */
static void distribution(const Draft *d, float *logits, float temperature, float *probs) {
    const long count = d->head->outputs;
    if (!d->places) {
        softmax(logits, 1, count, temperature, probs);
        return;
    }
    softmax(logits, 1, count, temperature, logits);
    memset(probs, 0, sizeof(float) * d->vocab);
    for (long i = 0; i < count; i++)
        probs[d->places[i]] = logits[i];
}

/* A block of tokens of each row and the distribution that each was drawn from. First p->fresh tokens are read, of model
 * ids latest, where the target has been; own becomes the state after the last token that was read. */
int chain(const Sizes *s, const Draft *d, const Pass *p, const Hidden *h, const int64_t *latest, float temperature,
          const double *uniform, int block, int64_t *tokens, float *probs, float *own) {
    const long width = s->width, rows = p->rows, fresh = p->fresh, outputs = d->head->outputs;
    float *x = malloc(sizeof(float) * rows * (2 * fresh * width + width + outputs)), *embedded = x + rows * fresh * width;
    float *normed = embedded + rows * fresh * width, *logits = normed + rows * width;
    int64_t lengths[rows], read[rows];
    const int32_t depth = 0;
    const uint8_t sees = 1;
    Pass pass = *p;
    for (long row = 0; row < rows; row++) {
        read[row] = p->lengths[row] + p->dropped[row]; /* tokens: the target has dropped none */
        lengths[row] = p->lengths[row] + fresh;
    }
    pass.lengths = lengths, pass.fresh = 1, pass.depths = &depth, pass.sees = &sees;
    int made = x && fused_states(d->fuse, h->states, h->row_step, h->read_step, h->bfloat16, width, rows, fresh,
                                 read, x);
    for (long token = 0; made && token < rows * fresh; token++)
        embed(d, latest[token], width, embedded + token * width);
    made = made && reading_layer(s, d->layer, d->state_norm, d->normed_residual, p, embedded, x);
    for (long row = 0; made && row < rows; row++)
        memcpy(own + row * width, x + ((row + 1) * fresh - 1) * width, sizeof(float) * width);
    for (int i = 0; made && i < block; i++) {
        rms(s, own, rows, d->norm, normed, width);
        made = product(d->head, normed, rows, logits, 0);
        for (long row = 0; made && row < rows; row++) {
            float *to = probs + (row * block + i) * d->vocab;
            int64_t *token = tokens + row * block + i;
            distribution(d, logits + row * outputs, temperature, to);
            draw(to, 0, 1, d->vocab, uniform + row * block + i, 0, 0, 1, token, 0);
            embed(d, d->ids[*token], width, embedded + row * width);
        }
        if (!made || i + 1 == block)
            break;
        made = reading_layer(s, d->layer, d->state_norm, d->normed_residual, &pass, embedded, own);
        for (long row = 0; row < rows; row++)
            lengths[row]++;
    }
    free(x);
    return made;
}

int group(void) { return GROUP; }
int lanes(void) { return LANES; }
int can_pair(void) {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}
