/* What sampling does with whole rows of the vocabulary. */

#include <stdint.h>

/* probs = softmax(logits / temperature) of each row; in place where the two are one. NaN where a row holds one. */
void softmax(const float *logits, long rows, long width, float temperature, float *probs);

/* Whether each row is a distribution: nothing negative, and a sum that is 1 but for the tolerance. A NaN fails. */
int are_distributions(const float *probs, long rows, long width, float tolerance);

/* Some independent indices of each row, each with a probability proportional to (weights - less)+, or to weights where
 * less is null or leaves nothing: the first place at which the running sum exceeds the number's share of the total.
 * Never one of weight 0, but the last one where all are. totals: of each row, or null. */
void draw(const float *weights, const float *less, long rows, long width, const double *uniform, long count,
          int64_t *index, double *totals);
