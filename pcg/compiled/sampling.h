/* What sampling does with whole rows of the vocabulary. */

#include <stdint.h>

/* probs = softmax(logits / temperature) of each row; in place where the two are one. NaN where a row holds one. */
void softmax(const float *logits, long rows, long width, float temperature, float *probs);

/* Whether each row is a distribution: nothing negative, and a sum that is 1 but for the tolerance. A NaN fails. */
int are_distributions(const float *probs, long rows, long width, float tolerance);

/* Of each row of ids the total of (more - less)+ in float64, and where there are numbers, one id drawn from that as below;
 * the last one where the total is 0. Each row of more and less is of as many rows of ids. */
void among(const int64_t *ids, long rows, long width, const float *more, const float *less, long vocab, long as_many,
           const double *uniform, long step, int64_t *chosen, double *totals);

/* Some independent indices of each row, each with a probability proportional to (weights - less)+, or to weights where
 * less is null or leaves nothing: the first place at which the running sum exceeds the number's share of the total.
 * Never one of weight 0, but the last one where all are. totals: of each row, or
 * null. Number n of row r is uniform[r * row_step + n * step]. */
void draw(const float *weights, const float *less, long rows, long width, const double *uniform, long row_step,
          long step, long count, int64_t *index, double *totals);
