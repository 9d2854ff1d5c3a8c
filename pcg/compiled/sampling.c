/* Called by rows.py; pcg/sampling.py has the same in torch. */

#include "sampling.h"

#include "vectors.h"

#define BLOCK 64 /* weights that are added up before a draw looks at them one by one */

typedef float halfvec __attribute__((vector_size(2 * LANES), aligned(4)));
typedef int32_t halfints __attribute__((vector_size(2 * LANES), aligned(4)));
typedef double doubles __attribute__((vector_size(4 * LANES)));

void softmax(const float *logits, long rows, long width, float temperature, float *probs) {
    for (long row = 0; row < rows; row++, logits += width, probs += width) {
        float most = -INFINITY, rest = 0;
        vec highest = splat(-INFINITY), sums = {0};
        long i = 0;
        for (; i + LANES <= width; i += LANES) {
            const vec each = *(const vec *)(logits + i);
            highest = chosen(each > highest, each, highest);
        }
        for (; i < width; i++)
            most = logits[i] > most ? logits[i] : most;
        for (int k = 0; k < LANES; k++)
            most = highest[k] > most ? highest[k] : most;
        for (i = 0; i + LANES <= width; i += LANES) {
            const vec each = exponential((*(const vec *)(logits + i) - most) / temperature);
            *(vec *)(probs + i) = each;
            sums += each;
        }
        for (; i < width; i++)
            rest += probs[i] = exponential(splat((logits[i] - most) / temperature))[0];
        const float scale = 1 / (total(sums) + rest);
        for (i = 0; i < width; i++)
            probs[i] *= scale;
    }
}

int are_distributions(const float *probs, long rows, long width, float tolerance) {
    for (long row = 0; row < rows; row++, probs += width) {
        vec sums = {0}, least = {0};
        float sum = 0, low = 0;
        long i = 0;
        for (; i + LANES <= width; i += LANES) {
            const vec each = *(const vec *)(probs + i);
            sums += each;
            least = chosen(each < least, each, least);
        }
        for (; i < width; i++) {
            sum += probs[i];
            low = probs[i] < low ? probs[i] : low;
        }
        sum += total(sums);
        if (!(sum > 1 - tolerance && sum < 1 + tolerance && low >= 0 && total(least) >= 0))
            return 0;
    }
    return 1;
}

ALWAYS double above(const float *weights, const float *less, long i) {
    const float found = less ? weights[i] - less[i] : weights[i];
    return found > 0 ? found : 0;
}

/* The sum of some weights, less what is given, in float64. */
ALWAYS double block_sum(const float *weights, const float *less, long count) {
    doubles sums = {0};
    double sum = 0;
    long i = 0;
    for (; i + LANES / 2 <= count; i += LANES / 2) {
        halfvec each = *(const halfvec *)(weights + i);
        if (less) {
            each -= *(const halfvec *)(less + i);
            each = (halfvec)((each > 0) & (halfints)each);
        }
        sums += __builtin_convertvector(each, doubles);
    }
    for (; i < count; i++)
        sum += above(weights, less, i);
    for (int k = 0; k < LANES / 2; k++)
        sum += sums[k];
    return sum;
}

void draw(const float *weights, const float *less, long rows, long width, const double *uniform, long row_step,
          long step, long count, int64_t *index, double *totals) {
    const long blocks = (width + BLOCK - 1) / BLOCK;
    double ends[blocks]; /* the running sum after each block */
    for (long row = 0; row < rows; row++, weights += width, uniform += row_step, index += count) {
        const float *without = less ? less + row * width : 0;
        double all = 0;
        for (int again = 0; again < 2 && !(all > 0); again++) {
            without = again ? 0 : without;
            for (long b = 0; b < blocks; b++) {
                const long first = b * BLOCK, left = width - first;
                const float *from = weights + first;
                all += without ? block_sum(from, without + first, left < BLOCK ? left : BLOCK)
                               : block_sum(from, 0, left < BLOCK ? left : BLOCK);
                ends[b] = all;
            }
        }
        if (totals)
            totals[row] = all;
        for (long n = 0; n < count; n++) {
            const double at = uniform[n * step] * all;
            long b = 0, found = width - 1;
            while (b < blocks && !(ends[b] > at))
                b++;
            double sum = b ? ends[b - 1] : 0;
            for (long i = b * BLOCK; b < blocks && i < width && i < (b + 1) * BLOCK; i++) {
                const double each = above(weights, without, i);
                if (each > 0) {
                    found = i;
                    if ((sum += each) > at)
                        break;
                }
            }
            index[n] = found;
        }
    }
}

void among(const int64_t *ids, long rows, long width, const float *more, const float *less, long vocab, long as_many,
           const double *uniform, long step, int64_t *chosen, double *totals) {
    for (long row = 0; row < rows; row++, ids += width) {
        const float *from = more + row / as_many * vocab, *without = less + row / as_many * vocab;
        double all = 0, sum = 0;
        for (long i = 0; i < width; i++)
            all += above(from, without, ids[i]);
        totals[row] = all;
        if (!uniform)
            continue;
        chosen[row] = ids[width - 1];
        for (long i = 0; i < width; i++)
            if ((sum += above(from, without, ids[i])) > uniform[row * step] * all) {
                chosen[row] = ids[i];
                break;
            }
    }
}
