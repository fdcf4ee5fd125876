/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates that end after seconds: nodes renew them while content goes on over the same links; without the master they go on with what
 * they have, also past its end; a node that was removed is refused everywhere. */
#include "tests/cluster/story.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "common/tls.h"

#define LIFE "15s"

static void node_file(const char *node, const char *name, char out[600])
{
	snprintf(out, 600, "%s/%s/state/%s", lab_dir(lab), node, name);
}

static time_t end_of_certificate(const char *node)
{
	char path[600];
	node_file(node, "node.crt", path);
	X509 *cert = cdm_tls_cert_load(path, NULL);
	time_t end = cert ? cdm_tls_not_after(cert) : 0;
	X509_free(cert);
	return end;
}

struct later {
	const char *node;
	time_t than;
};

static bool ends_later(void *arg, char *seen)
{
	struct later *l = arg;
	time_t end = end_of_certificate(l->node);
	snprintf(seen, 512, "the certificate of %s ends %ld s after the one before", l->node, (long)(end - l->than));
	return end > l->than;
}

static void renewed(const char *node, time_t than)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct later l = {node, than};
	if (lab_wait_for(ends_later, &l, STORY_MS, "a new certificate", &err) < 0)
		fail_msg("%s", err.text);
}

static bool is_past(void *arg, char *seen)
{
	time_t left = *(time_t *)arg - time(NULL);
	snprintf(seen, 512, "%ld s are left", (long)left);
	return left < 0;
}

static void all_ended(void)
{
	struct cdm_error err = CDM_ERROR_INIT;
	for (unsigned i = 0; i < lab_node_count(lab); i++) {
		time_t end = end_of_certificate(lab_node_name(lab, i));
		if (lab_wait_for(is_past, &end, STORY_MS, "the end of the certificates", &err) < 0)
			fail_msg("%s", err.text);
	}
}

static bool no_key_waits(void *arg, char *seen)
{
	snprintf(seen, 512, "the key of a certificate to come");
	return access(arg, F_OK) < 0;
}

/* It is there for a moment at each renewal. */
static void no_key_stays(const char *node)
{
	struct cdm_error err = CDM_ERROR_INIT;
	char next[600];
	node_file(node, "node.key.next", next);
	if (lab_wait_for(no_key_waits, next, STORY_MS, "no key beside the certificate's", &err) < 0)
		fail_msg("%s", err.text);
}

static int lines_with(const char *node, const char *word)
{
	_cleanup_free_ char *said = NULL;
	shell_status(node, &said, "grep -c '%s' %s/logs/%s-replicator.log", word, lab_dir(lab), node);
	return atoi(said);
}

static void a_new_one_comes_in_time_and_no_link_is_dropped(void **state)
{
	int dropped = lines_with("n1", "event=link_down");
	save("n1", "before", "old certificate");
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		renewed(lab_node_name(lab, i), end_of_certificate(lab_node_name(lab, i)));
	save("n1", "after", "new certificate");
	everywhere_equal();
	assert_int_equal(lines_with("n1", "event=link_down"), dropped);
	char key[600];
	node_file("n2", "node.key", key);
	assert_int_equal(access(key, R_OK), 0);
	no_key_stays("n2");
}

static void a_crash_between_certificate_and_key_is_made_good(void **state)
{
	char key[600], next[600];
	killed("n2", LAB_REPLICATOR);
	node_file("n2", "node.key", key);
	node_file("n2", "node.key.next", next);
	assert_int_equal(rename(key, next), 0); /* as it is when the new certificate has come and its key is not yet in place … */
	shell("n2", "cp %s/n1/state/node.key %s", lab_dir(lab), key); /* … beside an older one */
	started("n2", LAB_REPLICATOR);
	save("n1", "key", "made good");
	gets_text("n2", "key", "made good");
	no_key_stays("n2");
}

static void without_the_master_all_go_on_past_the_end(void **state)
{
	killed(NULL, LAB_MASTER);
	all_ended();
	save("n1", "late", "over the old links");
	gets_text("n3", "late", "over the old links");
	killed("n2", LAB_REPLICATOR);
	killed("n3", LAB_REPLICATOR);
	started("n2", LAB_REPLICATOR);
	started("n3", LAB_REPLICATOR);
	save("n1", "late", "over new ones");
	gets_text("n2", "late", "over new ones");
	gets_text("n3", "late", "over new ones");
	assert_true(lines_with("n2", "event=certificate_late") > 0);
	time_t before = end_of_certificate("n3");
	started(NULL, LAB_MASTER);
	for (unsigned i = 0; i < lab_node_count(lab); i++)
		renewed(lab_node_name(lab, i), before);
	everywhere_equal();
}

static bool is_refused(void *arg, char *seen)
{
	int lines = lines_with("n3", "certificate is not valid any more");
	snprintf(seen, 512, "%d lines of n3's log say so", lines);
	return lines > 0;
}

static void a_node_that_was_removed_is_refused_everywhere(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	administrator("node", "remove", "n3", "--yes", NULL);
	killed("n3", LAB_REPLICATOR); /* it dials again, with what it has */
	assert_int_equal(lab_start(lab, "n3", LAB_REPLICATOR, &err), 0);
	save("n1", "secret", "not for n3");
	gets_text("n2", "secret", "not for n3");
	assert_int_equal(stat_wait("n1", "--timeout 20", NULL), 0);
	if (lab_wait_for(is_refused, NULL, STORY_MS, "refused by the master", &err) < 0)
		fail_msg("%s", err.text);
	absent("n3", "secret");
}

int main(void)
{
	const struct CMUnitTest stories[] = {
		cmocka_unit_test(a_new_one_comes_in_time_and_no_link_is_dropped),
		cmocka_unit_test(a_crash_between_certificate_and_key_is_made_good),
		cmocka_unit_test(without_the_master_all_go_on_past_the_end),
		cmocka_unit_test(a_node_that_was_removed_is_refused_everywhere),
	};
	return STORIES("certificates", ((struct lab_options){.nodes = 3, .certificate_life = LIFE}), stories);
}
