/* SPDX-License-Identifier: Apache-2.0 */
/* Links by class: n1 and n3 are of one region, n2 of another; no two are of one group. */
#include "tests/cluster/story.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "common/loop.h"

static int64_t figure(const json_t *stats, const char *class, const char *what)
{
	const json_t *at = json_object_get(json_object_get(json_object_get(stats, "sections"), class), what);
	assert_true(json_is_integer(at));
	return json_integer_value(at);
}

/* What all nodes sent over links of a class, less another figure of the same moment (NULL: none). */
static int64_t sent_less(const char *class, const char *what, const char *less)
{
	struct cdm_error err = CDM_ERROR_INIT;
	int64_t sum = 0;
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		json_t *request = json_pack("{s:s}", "cmd", "stats"), *answer = NULL;
		if (lab_control(lab, lab_node_name(lab, i), request, STORY_MS, &answer, &err) < 0)
			fail_msg("%s", err.text);
		sum += figure(answer, class, what) - (less ? figure(answer, class, less) : 0);
		json_decref(answer);
		json_decref(request);
	}
	return sum;
}

static int64_t sent(const char *class, const char *what)
{
	return sent_less(class, what, NULL);
}

/* The table of a node as a master would have left it. The master is away, so nobody corrects it. */
static void hold_sections(const char *node, const char *sections)
{
	char path[4096];
	json_error_t jerr;
	snprintf(path, sizeof path, "%s/%s/state/routes.json", lab_dir(lab), node);
	killed(node, LAB_REPLICATOR);
	json_t *table = json_load_file(path, 0, &jerr);
	assert_non_null(table);
	json_object_set_new(table, "sections", json_loads(sections, 0, &jerr));
	assert_int_equal(json_dump_file(table, path, JSON_COMPACT), 0);
	json_decref(table);
	started(node, LAB_REPLICATOR);
}

static void in_force(const char *sections)
{
	if (lab_pid(lab, NULL, LAB_MASTER))
		killed(NULL, LAB_MASTER);
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		hold_sections(lab_node_name(lab, i), sections);
	everywhere_equal();
}

static int lines_in_log(const char *what)
{
	char *said;
	shell_status("n1", &said, "cat %s/logs/*replicator* | grep -c '%s'", lab_dir(lab), what);
	int n = atoi(said);
	free(said);
	return n;
}

static void text_shrinks_and_each_class_counts_for_itself(void **state)
{
	int64_t region = sent("region", "raw_bytes"), international = sent("international", "raw_bytes");
	shell("n1", "mkdir text && for i in $(seq 200); do seq $i $((i + 900)) > text/$i; done && seq 500000 > text/long");
	everywhere_equal();
	assert_true(sent("region", "raw_bytes") - region > 3000000);
	assert_true(sent("international", "raw_bytes") - international > 3000000);
	assert_true(sent("region", "compressed_bytes") < sent("region", "raw_bytes") / 2);
	assert_true(sent("international", "compressed_bytes") < sent("international", "raw_bytes") / 2);
	assert_true(sent_less("international", "wire_bytes", "compressed_bytes") >= 0);
	assert_int_equal(sent("group", "wire_bytes"), 0);
	assert_true(counter("n1", "sent_bytes") > 0);
	assert_true(counter("n1", "offered_bytes") >= counter("n1", "after_delta_bytes"));
	assert_true(sent_less("region", "offered_bytes", "raw_bytes") >= 0);
	assert_true(sent("region", "saved_bytes") > 0);
	shell("n1", "cdmfs-stat %s --json | jq -e '.cost.saved_bytes > 0 and .sections.region.saved_bytes > 0'", LAB_SET);
}

static bool metrics_tell(void *arg, char *seen)
{
	_cleanup_free_ char *said = NULL;
	shell_status("n1", &said, "curl -s --cacert $CDMFS_CA -H \"Authorization: Bearer $(cat $CDMFS_TOKEN_FILE)\" $CDMFS_API/metrics");
	snprintf(seen, 512, "%.500s", said);
	return strstr(said, "cdmfs_section_wire_bytes_total{section=\"international\",node=\"n1\"}") &&
		strstr(said, "cdmfs_set_sent_bytes_total{set=\"" LAB_SET "\",node=\"n1\"}");
}

static void the_metrics_tell_what_it_cost(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	if (lab_wait_for(metrics_tell, NULL, STORY_MS, "costs in the master's metrics", &err) < 0)
		fail_msg("%s", err.text);
}

static void one_class_in_clear_whole_and_as_it_is(void **state)
{
	shell("n1", "head -c 2M /dev/urandom > base");
	everywhere_equal();
	int before = lines_in_log("event=link_protection");
	in_force("{\"region\":{\"compression\":0,\"encryption\":false,\"delta\":false}}");
	assert_true(lines_in_log("event=link_protection") > before);
	shell("n1", "seq 300000 > plain && (date; cat base) > base.new && mv base.new base");
	everywhere_equal();
	assert_int_equal(sent_less("region", "compressed_bytes", "raw_bytes"), 0);
	assert_true(sent("region", "raw_bytes") > 4000000);
	assert_true(sent("international", "compressed_bytes") < sent("international", "raw_bytes"));
}

static void a_slow_class_takes_its_time(void **state)
{
	in_force("{\"region\":{\"rate\":1000000},\"international\":{\"rate\":9,\"grid\":[{\"from\":0,\"to\":10080,\"rate\":1000000}]}}");
	int64_t start = cdm_now_ms();
	shell("n1", "head -c 3M /dev/urandom > slow");
	everywhere_equal();
	assert_true(cdm_now_ms() - start > 2500);
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(text_shrinks_and_each_class_counts_for_itself),
		cmocka_unit_test(the_metrics_tell_what_it_cost),
		cmocka_unit_test(one_class_in_clear_whole_and_as_it_is),
		cmocka_unit_test(a_slow_class_takes_its_time),
	};
	return STORIES("sections", ((struct lab_options){.nodes = 3, .groups = 3, .regions = 2}), stories);
}
