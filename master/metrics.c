/* SPDX-License-Identifier: Apache-2.0 */
#include "master/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "master/live.h"
#include "master/section.h"

/* --- how sets stand --- */

struct set_figures {
	size_t nodes, in_sync;
	double lag;
	json_int_t bytes;
};

static struct set_figures count_set(const struct master *master, const struct model *m, const struct model_set *s)
{
	struct set_figures f = {0};
	json_t *status = live_set_status(master->live, m, s), *node;
	size_t k;
	f.nodes = json_array_size(json_object_get(status, "nodes"));
	json_array_foreach(json_object_get(status, "nodes"), k, node) {
		const char *state = json_string_value(json_object_get(node, "state"));
		double lag = json_number_value(json_object_get(node, "lag_s"));
		f.in_sync += strcmp(state, "in sync") == 0 || strcmp(state, "source") == 0;
		f.lag = lag > f.lag ? lag : f.lag;
		f.bytes += json_integer_value(json_object_get(node, "pending_bytes"));
	}
	json_decref(status);
	return f;
}

static void put_sets(const struct master *master, FILE *f)
{
	static const char *const names[] = {"cdmfs_set_nodes", "cdmfs_set_nodes_in_sync", "cdmfs_replication_lag_seconds", "cdmfs_replication_pending_bytes"};
	const struct model *m = registry_model(master->registry);
	struct set_figures *figures = calloc(m->set_count + 1, sizeof *figures);
	if (!figures)
		abort();
	for (size_t i = 0; i < m->set_count; i++)
		figures[i] = count_set(master, m, &m->sets[i]);
	for (int k = 0; k < 4; k++) {
		fprintf(f, "# TYPE %s gauge\n", names[k]);
		for (size_t i = 0; i < m->set_count; i++) {
			const struct set_figures *g = &figures[i];
			double value = k == 0 ? (double)g->nodes : k == 1 ? (double)g->in_sync : k == 2 ? g->lag : (double)g->bytes;
			fprintf(f, "%s{set=\"%s\"} %.17g\n", names[k], m->sets[i].name, value);
		}
	}
	free(figures);
}

/* Only of nodes that told of one. */
static void put_scrub_metrics(const struct master *master, FILE *f)
{
	const struct model *m = registry_model(master->registry);
	fputs("# TYPE cdmfs_scrub_last_success_timestamp_seconds gauge\n", f);
	for (size_t i = 0; i < m->set_count; i++) {
		json_t *status = live_set_status(master->live, m, &m->sets[i]), *node;
		size_t k;
		json_array_foreach(json_object_get(status, "nodes"), k, node) {
			json_int_t proven_s = json_integer_value(json_object_get(node, "proven_s"));
			if (proven_s)
				fprintf(f, "cdmfs_scrub_last_success_timestamp_seconds{set=\"%s\",node=\"%s\"} %" JSON_INTEGER_FORMAT "\n", m->sets[i].name,
					json_string_value(json_object_get(node, "name")), proven_s);
		}
		json_decref(status);
	}
}

/* --- what was sent --- */

static void put_section_costs(const struct master *master, FILE *f)
{
	static const char *const figures[COST_FIGURES] = {"offered", "raw", "compressed", "wire"};
	const struct model *m = registry_model(master->registry);
	for (int k = 0; k < COST_FIGURES; k++) {
		fprintf(f, "# TYPE cdmfs_section_%s_bytes_total counter\n", figures[k]);
		for (size_t i = 0; i < m->node_count; i++) {
			const struct live_node *n = live_find(master->live, m->nodes[i].number);
			for (int which = 0; n && n->connected && which < SECTION_COUNT; which++)
				if (n->sections[which].known)
					fprintf(f, "cdmfs_section_%s_bytes_total{section=\"%s\",node=\"%s\"} %" PRId64 "\n", figures[k],
						section_name((enum section)which), m->nodes[i].name, n->sections[which].bytes[k]);
		}
	}
}

static void put_set_costs(const struct master *master, FILE *f)
{
	static const char *const figures[] = {"offered", "after_delta", "sent"};
	const struct model *m = registry_model(master->registry);
	for (int k = 0; k < 3; k++) {
		fprintf(f, "# TYPE cdmfs_set_%s_bytes_total counter\n", figures[k]);
		for (size_t i = 0; i < m->set_count; i++)
			for (size_t node = 0; node < m->node_count; node++) {
				const struct live_node *n = m->sets[i].role[node] ? live_find(master->live, m->nodes[node].number) : NULL;
				struct live_cost cost = n && n->connected ? live_node_set_cost(n, m->sets[i].name) : (struct live_cost){0};
				if (cost.known)
					fprintf(f, "cdmfs_set_%s_bytes_total{set=\"%s\",node=\"%s\"} %" PRId64 "\n", figures[k], m->sets[i].name,
						m->nodes[node].name, cost.bytes[k]);
			}
	}
}

void metrics_answer(struct http_call *c)
{
	const struct model *m = registry_model(c->master->registry);
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (!f) {
		http_problem(c, 503, "", "out of memory");
		return;
	}
	fprintf(f, "# TYPE cdmfs_build_info gauge\ncdmfs_build_info{version=\"%s\"} 1\n# TYPE cdmfs_master_epoch gauge\ncdmfs_master_epoch %" PRIu64
		"\n# TYPE cdmfs_nodes gauge\ncdmfs_nodes %zu\n# TYPE cdmfs_nodes_connected gauge\ncdmfs_nodes_connected %zu\n",
		CDM_VERSION, m->epoch, m->node_count, live_connected_count(c->master->live));
	put_sets(c->master, f);
	put_scrub_metrics(c->master, f);
	put_section_costs(c->master, f);
	put_set_costs(c->master, f);
	fclose(f);
	http_text(c, "text/plain; version=0.0.4", text, len);
	free(text);
}
