/*
 * What a run comes to: rates, latencies and costs a request, out of what the guest and its kring
 * have counted; and how that is shown.
 *
 * Any thread.
 */
#ifndef BENCH_BENCH_RESULT_H
#define BENCH_BENCH_RESULT_H

#include <stdbool.h>
#include <stdio.h>

struct bench_result {
	/* by the guest's clock */
	double requests_per_s, bytes_per_s;
	double mean, p50, p90, p99, p999, max; /* latencies, us */
	double errors;
	double verified, mismatches; /* blocks */
	/* a request; CPU in us */
	double io_cpu;   /* of kring's I/O thread */
	double host_cpu; /* of that and the ring's workers: all but the vCPUs */
	double vcpu_cpu; /* of the vCPUs: the guest and its exits */
	double enters, sqes, kicks, interrupts;
	double kvm_exits;  /* all, as KVM counts them */
	double user_exits; /* of them, those that went to kring */
	double sqes_per_enter;
};

/*
 * @guest is the guest's JSON, @stats and @timings are kring's. Costs are spread over all requests
 * that the guest has made.
 */
void bench_result(struct bench_result *result, const char *guest, const char *stats,
                  const char *timings);

/* The rows, for people; those that are about something else are left out. A request is a @noun. */
void bench_result_text(const struct bench_result *result, const char *noun, FILE *out);

/* Members of a JSON object, each with a comma before it. */
void bench_result_json(const struct bench_result *result, FILE *out);

struct bench_spread {
	double min, median, max;
};

/* Of @n values, which are sorted on the way. */
void bench_spread(struct bench_spread *spread, double *value, size_t n);

#endif
