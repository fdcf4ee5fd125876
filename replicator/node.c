/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/log.h"
#include "common/tls.h"
#include "replicator/control.h"
#include "replicator/links.h"
#include "replicator/master_link.h"
#include "replicator/opens.h"
#include "replicator/renew.h"
#include "replicator/route.h"
#include "replicator/set.h"
#include "replicator/state.h"
#include "replicator/wire_codec.h"

struct set *node_set(struct node *node, const char *name)
{
	for (size_t i = 0; i < node->set_count; i++)
		if (strcmp(set_name(node->sets[i]), name) == 0)
			return node->sets[i];
	return NULL;
}

int node_add_sets(struct node *node)
{
	int failed = 0;
	for (size_t i = 0; i < node->conf->set_count; i++) {
		const struct cdm_set_conf *conf = &node->conf->sets[i];
		struct cdm_error err = CDM_ERROR_INIT;
		struct set *set = NULL;
		if (node_set(node, conf->name))
			continue;
		if (set_new(node, conf, &set, &err) < 0) {
			cdm_log_err(set_failed, &err, cdm_str("set", conf->name));
			failed++;
			continue;
		}
		node->sets = realloc(node->sets, (node->set_count + 1) * sizeof *node->sets);
		if (!node->sets)
			abort();
		node->sets[node->set_count++] = set;
		route_apply_set(node, set);
	}
	parent_step_all(node);
	return failed;
}

int node_new(const char *config, struct node **ret, struct cdm_error *err)
{
	struct node *node = calloc(1, sizeof *node);
	if (!node)
		return cdm_fail(err, ENOMEM, "start");
	node->instance = (uint64_t)cdm_wall_ns();
	node->features = WIRE_FEATURES;
	int r = cdm_conf_load(config, &node->conf, err);
	if (r == 0)
		r = cdm_identity_load(node->conf, &node->id, err);
	if (r == 0) {
		cdm_log_identity(node->id->node, NULL);
		r = renew_load(node, err);
	}
	if (r == 0)
		r = cdm_loop_new(&node->loop, err);
	if (r == 0 && (dialer_new(node) < 0 || state_new(node) < 0 || opens_new(node) < 0))
		r = cdm_fail(err, ENOMEM, "start");
	if (r == 0)
		renew_new(node);
	if (r == 0)
		r = route_new(node, err);
	if (r == 0)
		r = control_new(node, err); /* before anything is touched: it finds a second replicator */
	if (r == 0)
		r = listener_new(node, err);
	if (r == 0 && master_new(node) < 0)
		r = cdm_fail(err, ENOMEM, "start");
	if (r < 0)
		node_free(&node);
	*ret = node;
	return r;
}

int node_reload(struct node *node, struct cdm_error *err)
{
	struct cdm_conf *conf = NULL;
	int r = cdm_conf_load(node->conf->path, &conf, err);
	if (r < 0)
		return r;
	struct cdm_conf **old = realloc(node->old_confs, (node->old_conf_count + 1) * sizeof *old);
	if (!old)
		abort();
	node->old_confs = old;
	node->old_confs[node->old_conf_count++] = node->conf;
	node->conf = conf;
	int failed = node_add_sets(node);
	cdm_log(reload, cdm_uint("sets", node->set_count), cdm_int("failed", failed));
	return 0;
}

void node_link_gone(struct node *node)
{
	if (node->stopping && node->link_count == 0)
		cdm_loop_stop(node->loop);
}

void node_stop(struct node *node)
{
	if (node->stopping)
		return;
	node->stopping = true;
	control_free(node);
	master_free(node);
	listener_free(node);
	dialer_free(node);
	for (size_t i = 0; i < node->link_count; i++)
		link_end(node->links[i], "this node ends");
	node_link_gone(node);
}

/* After node_stop, or before anything ran. Callbacks of what is cancelled still come from cdm_loop_free. */
void node_free(struct node **pnode)
{
	struct node *node = *pnode;
	*pnode = NULL;
	if (!node)
		return;
	node->stopping = true;
	control_free(node);
	master_free(node);
	listener_free(node);
	dialer_free(node);
	for (size_t i = 0; i < node->set_count; i++)
		set_free(&node->sets[i]);
	opens_free(node);
	state_free(node);
	renew_free(node);
	route_free(node);
	cdm_loop_free(&node->loop);
	SSL_CTX_free(node->tls_client);
	SSL_CTX_free(node->tls_server);
	cdm_identity_free(&node->id);
	for (size_t i = 0; i < node->old_conf_count; i++)
		cdm_conf_free(&node->old_confs[i]);
	cdm_conf_free(&node->conf);
	free(node->old_confs);
	free(node->sets);
	free(node->links);
	free(node);
}
