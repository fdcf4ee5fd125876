/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/pace.h"

#define WAIT_MAX_MS 1000
#define RATE_MAX (1ull << 40) /* more is no limit */

/* The bucket's size: what flows in a burst's time, but not so little that headers are most of it. */
static int64_t burst_of(uint64_t rate)
{
	int64_t burst = (int64_t)(rate * PACE_BURST_MS / 1000);
	return burst > PACE_LEAST ? burst : PACE_LEAST;
}

static void fill(struct pace *p, int64_t burst, uint64_t rate, int64_t now_ns)
{
	double more = (double)(now_ns - p->filled_ns) * (double)rate / 1e9;
	if (p->filled_ns == 0 || more >= (double)(burst - p->tokens))
		p->tokens = burst;
	else if (more >= 1)
		p->tokens += (int64_t)more;
	else
		return; /* too early for a whole byte: the time counts later */
	p->filled_ns = now_ns;
}

size_t pace_ask(struct pace *p, uint64_t rate, int64_t now_ns, size_t want, int64_t *ret_wait_ms)
{
	if (rate < PACE_LEAST)
		rate = PACE_LEAST;
	if (rate > RATE_MAX)
		rate = RATE_MAX;
	int64_t burst = burst_of(rate), least = burst / 2; /* not every byte for itself */
	fill(p, burst, rate, now_ns);
	if (least > (int64_t)want)
		least = (int64_t)want;
	if (p->tokens >= least)
		return (size_t)p->tokens < want ? (size_t)p->tokens : want;
	int64_t wait_ms = (int64_t)((double)(least - p->tokens) * 1000 / (double)rate) + 1;
	*ret_wait_ms = wait_ms < WAIT_MAX_MS ? wait_ms : WAIT_MAX_MS;
	return 0;
}

void pace_used(struct pace *p, size_t bytes)
{
	p->tokens -= (int64_t)bytes;
}
