/* SPDX-License-Identifier: Apache-2.0 */
/* lab_state.c — D/lab.json: what a lab consists of and what of it was started. */
#include "tests/lab/lab_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "common/io.h"

#define LAB_STATE "lab.json"

static json_t *process_json(const struct lab_process *p)
{
	return json_pack("{s:I,s:I}", "pid", (json_int_t)p->pid, "start", (json_int_t)p->start);
}

static struct lab_process process_from(const json_t *j)
{
	return (struct lab_process){
		.pid = (pid_t)json_integer_value(json_object_get(j, "pid")),
		.start = (uint64_t)json_integer_value(json_object_get(j, "start")),
	};
}

int lab_state_save(const struct lab *lab, struct cdm_error *err)
{
	json_t *nodes = json_array();
	for (unsigned i = 0; i < lab->node_count; i++) {
		const struct lab_node *node = lab->nodes[i];
		json_array_append_new(nodes,
			json_pack("{s:s,s:s,s:i,s:s?,s:o,s:o,s:o}", "name", node->name, "group", node->group, "port", (int)node->port, "rate",
				node->rate, "holder", process_json(&node->holder), "replicator", process_json(&node->replicator), "wire",
				process_json(&node->wire)));
	}
	json_t *state = json_pack("{s:i,s:b,s:b,s:s?,s:s?,s:s?,s:I,s:i,s:i,s:i,s:i,s:s?,s:s?,s:o,s:o}", "lab", 1, "installed", lab->installed, "netns", lab->netns, "rate", lab->rate,
		"journal", lab->journal, "certificate_life", lab->certificate_life, "delay_us", (json_int_t)lab->delay_us, "groups", (int)lab->groups, "regions", (int)lab->regions, "api_port",
		(int)lab->api_port, "agent_port", (int)lab->agent_port, "url", lab->url, "agents", lab->agents, "master",
		process_json(&lab->master), "nodes", nodes);
	char *text = state ? json_dumps(state, JSON_INDENT(1)) : NULL;
	json_decref(state);
	if (!text)
		return cdm_fail(err, ENOMEM, "write %s/" LAB_STATE, lab->dir);
	int r = cdm_replace_file(lab->dir_fd, LAB_STATE, text, strlen(text), 0644, err);
	free(text);
	return r < 0 ? cdm_wrap(err, r, "in %s", lab->dir) : 0;
}

static char *text_of(const json_t *j, const char *key)
{
	const char *text = json_string_value(json_object_get(j, key));
	return text ? lab_format("%s", text) : NULL;
}

static long long number_of(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static int nodes_from(struct lab *lab, const json_t *nodes)
{
	size_t count = json_array_size(nodes);
	if (count > LAB_NODES_MAX)
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		const json_t *j = json_array_get(nodes, i);
		const char *group = json_string_value(json_object_get(j, "group"));
		if (!group)
			return -EINVAL;
		struct lab_node *node = lab_node_new(lab, (unsigned)i + 1, group);
		node->port = (unsigned)number_of(j, "port");
		free(node->rate);
		node->rate = text_of(j, "rate");
		node->holder = process_from(json_object_get(j, "holder"));
		node->replicator = process_from(json_object_get(j, "replicator"));
		node->wire = process_from(json_object_get(j, "wire"));
	}
	return 0;
}

int lab_state_load(struct lab *lab, struct cdm_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = cdm_read_file(lab->dir_fd, LAB_STATE, 1 << 20, &text, &len, err);
	if (r < 0)
		return r;
	json_error_t where;
	json_t *state = json_loadb(text, len, 0, &where);
	if (!state || number_of(state, "lab") != 1) {
		json_decref(state);
		return cdm_fail_plain(err, EINVAL, "%s/" LAB_STATE " was not written by lab: %s", lab->dir, where.text);
	}
	lab->installed = json_is_true(json_object_get(state, "installed"));
	lab->netns = json_is_true(json_object_get(state, "netns"));
	lab->rate = text_of(state, "rate");
	lab->journal = text_of(state, "journal");
	lab->certificate_life = text_of(state, "certificate_life");
	lab->delay_us = number_of(state, "delay_us");
	lab->groups = (unsigned)number_of(state, "groups");
	lab->regions = (unsigned)number_of(state, "regions");
	lab->api_port = (unsigned)number_of(state, "api_port");
	lab->agent_port = (unsigned)number_of(state, "agent_port");
	lab->url = text_of(state, "url");
	lab->agents = text_of(state, "agents");
	lab->master = process_from(json_object_get(state, "master"));
	r = nodes_from(lab, json_object_get(state, "nodes"));
	json_decref(state);
	return r < 0 ? cdm_fail_plain(err, EINVAL, "%s/" LAB_STATE " is damaged", lab->dir) : 0;
}
