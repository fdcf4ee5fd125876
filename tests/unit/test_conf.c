/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "common/conf.h"
#include "common/io.h"

static char dir[] = "/tmp/cdm-test-conf-XXXXXX";
static int dir_fd;

static int make_dir(void **state)
{
	if (!mkdtemp(dir))
		return -1;
	dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir_fd < 0 ? -1 : 0;
}

static int remove_dir(void **state)
{
	static const char *const names[] = {"node.conf", "identity.json", "routes.json"};
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		unlinkat(dir_fd, names[i], 0);
	close(dir_fd);
	return rmdir(dir);
}

static void put(const char *name, const char *text)
{
	assert_int_equal(cdm_replace_file(dir_fd, name, text, strlen(text), 0600, NULL), 0);
}

static int load(const char *text, struct cdm_conf **ret, struct cdm_error *err)
{
	char path[64];
	put("node.conf", text);
	snprintf(path, sizeof path, "%s/node.conf", dir);
	return cdm_conf_load(path, ret, err);
}

/* A configuration whose state directory is the test's own. */
static struct cdm_conf *conf_here(void)
{
	char text[128];
	struct cdm_conf *conf = NULL;
	snprintf(text, sizeof text, "[node]\nstate = %s\n[set www]\nstore=/s/www\nmountpoint=/srv/www\n", dir);
	assert_int_equal(load(text, &conf, NULL), 0);
	return conf;
}

static void everything_given_is_read(void **state)
{
	struct cdm_conf *c = NULL;
	struct cdm_error err = CDM_ERROR_INIT;
	int r = load("\xef\xbb\xbf; a comment\n[node]\n  state = /var/x/ ; behind\n\trun=/run/x\r\nlisten = [::1]:7000\nadvertise = web.example:7001\n"
		     "# another\n\n[set www]\nstore = /srv/a b/www\nmountpoint = /srv/www/\njournal = 512M\nscrub = 16M\n[set  media.v-1_x]\nstore=/m\njournal=1GiB",
		&c, &err);
	if (r)
		fail_msg("%s", err.text);
	assert_string_equal(c->state, "/var/x");
	assert_string_equal(c->run, "/run/x");
	assert_string_equal(c->control, "/run/x/control.sock");
	assert_string_equal(c->listen, "[::1]:7000");
	assert_string_equal(c->advertise, "web.example:7001");
	assert_int_equal(c->set_count, 2);
	assert_string_equal(c->sets[0].name, "www");
	assert_string_equal(c->sets[0].store, "/srv/a b/www");
	assert_string_equal(c->sets[0].mountpoint, "/srv/www");
	assert_int_equal(c->sets[0].journal_bytes, 512ull << 20);
	assert_string_equal(c->sets[1].name, "media.v-1_x");
	assert_int_equal(c->sets[0].scrub_rate, 16ull << 20);
	assert_int_equal(c->sets[1].scrub_rate, 0);
	assert_int_equal(c->sets[1].journal_bytes, 1ull << 30);
	assert_null(c->sets[1].mountpoint);
	cdm_conf_free(&c);
}

static void an_empty_file_gives_the_defaults(void **state)
{
	struct cdm_conf *c = NULL;
	assert_int_equal(load("", &c, NULL), 0);
	assert_string_equal(c->state, "/var/lib/cdmfs");
	assert_string_equal(c->control, "/run/cdmfs/control.sock");
	assert_string_equal(c->listen, "0.0.0.0:7441");
	assert_null(c->advertise);
	struct cdm_error err = CDM_ERROR_INIT;
	assert_null(cdm_conf_set(c, "www", &err));
	assert_non_null(strstr(err.text, "www"));
	assert_true(err.hint[0]);
	cdm_conf_free(&c);
}

static void a_long_path_is_kept_whole(void **state)
{
	char text[3000] = "[set w]\nstore = /";
	memset(text + strlen(text), 'x', 2000);
	struct cdm_conf *c = NULL;
	assert_int_equal(load(text, &c, NULL), 0);
	assert_int_equal(strlen(c->sets[0].store), 2001);
	cdm_conf_free(&c);
}

static void mistakes_are_told_with_their_line(void **state)
{
	static const struct {
		const char *text, *expected;
	} rows[] = {
		{"[node]\nstat = /x\n", "line 2: unknown key 'stat'"},
		{"[node]\nstore = /x\n", "line 2: unknown key 'store'"},
		{"\n\n[nodes]\n", "line 3: unknown section 'nodes'"},
		{"[set]\n", "line 1: unknown section 'set'"},
		{"[set a/b]\nstore=/x\n", "line 1: not a usable set name 'a/b'"},
		{"[set ..]\nstore=/x\n", "line 1: not a usable set name '..'"},
		{"[node\nstate=/x\n", "line 1: not a section line"},
		{"[node] x\n", "line 1: not a section line"},
		{"state = /x\n", "line 1: no section before key 'state'"},
		{"[node]\nstate\n", "line 2: not a 'key = value' line: 'state'"},
		{"[node]\nstate = x\n", "line 2: not an absolute path: 'x'"},
		{"[node]\nstate =\n", "line 2: not an absolute path: ''"},
		{"[node]\nlisten = 10.0.0.1\n", "line 2: not HOST:PORT: '10.0.0.1'"},
		{"[node]\nlisten = 10.0.0.1:99999\n", "line 2: not HOST:PORT"},
		{"[node]\nlisten = ::1:7441\n", "line 2: not HOST:PORT"},
		{"[node]\nlisten = :7441\n", "line 2: not HOST:PORT"},
		{"[node]\nrun=/a\nrun=/b\n", "line 3: given twice in this section: 'run'"},
		{"[set w]\nstore=/x\njournal=lots\n", "line 3: not a usable size: 'lots'"},
		{"[set w]\nstore=/x\njournal=1K\n", "line 3: not a usable size: '1K'"},
		{"[set w]\nstore=/x\njournal=-4M\n", "line 3: not a usable size: '-4M'"},
		{"[set w]\nstore=/x\njournal=99999999999999999999\n", "line 3: not a usable size"},
		{"[set w]\nstore=/x\njournal=33554432T\n", "line 3: not a usable size"},
		{"[set w]\nmountpoint=/x\n[node]\n", "line 1: [set w] has no store"},
		{"[set w]\n", "line 1: [set w] has no store"},
		{"[set w]\nstore=/x\n[set w]\nstore=/y\n", "line 3: second section for set 'w'"},
		{"[set a]\nstore=/x\n[set b]\nstore=/x/y\n", "the store of set b lies in the store of set a"},
		{"[set a]\nstore=/x\n[set b]\nstore=/x\n", "lies in the store of set"},
		{"[set a]\nstore=/m/s\nmountpoint=/m\n", "lies under the mountpoint of set a"},
	};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		struct cdm_conf *c = NULL;
		if (load(rows[i].text, &c, &err) != -EINVAL || !strstr(err.text, rows[i].expected))
			fail_msg("expected '%s', got '%s'", rows[i].expected, err.text);
		assert_null(c);
	}
}

static void a_missing_file_says_where_it_belongs(void **state)
{
	struct cdm_error err = CDM_ERROR_INIT;
	struct cdm_conf *c = NULL;
	assert_int_equal(cdm_conf_load("/nowhere/node.conf", &c, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nowhere/node.conf"));
	assert_non_null(strstr(err.hint, "CDMFS_CONFIG"));
}

static void paths_find_their_set(void **state)
{
	struct cdm_conf *c = NULL;
	assert_int_equal(load("[set a]\nstore=/s/a\nmountpoint=/srv\n[set b]\nstore=/s/b\nmountpoint=/srv/b\n", &c, NULL), 0);
	static const struct {
		const char *path, *set;
	} rows[] = {{"/srv", "a"}, {"/srv/x", "a"}, {"/srv/b", "b"}, {"/srv/b/y", "b"}, {"/srv/bb", "a"}, {"/s/b/z", "b"}, {"/s", NULL},
		{"/", NULL}, {"/srvx", NULL}};
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		const struct cdm_set_conf *set = cdm_conf_set_of_path(c, rows[i].path);
		if ((set == NULL) != (rows[i].set == NULL) || (set && strcmp(set->name, rows[i].set) != 0))
			fail_msg("%s", rows[i].path);
	}
	struct cdm_error err = CDM_ERROR_INIT;
	assert_null(cdm_conf_set(c, "wwww", &err));
	assert_string_equal(err.text, "unknown set 'wwww'");
	assert_non_null(strstr(err.hint, "a, b"));
	cdm_conf_free(&c);
}

static void identity_is_read_or_says_how_to_join(void **state)
{
	struct cdm_conf *c = conf_here();
	struct cdm_identity *id = NULL;
	struct cdm_error err = CDM_ERROR_INIT;
	assert_int_equal(cdm_identity_load(c, &id, &err), -ENOENT);
	assert_non_null(strstr(err.hint, "join"));
	put("identity.json", "{\"node\":\"n1\",\"number\":7,\"group\":\"g\",\"region\":\"r\",\"master\":\"m:1\",\"api\":\"https://m:2\",\"later\":1}");
	assert_int_equal(cdm_identity_load(c, &id, &err), 0);
	assert_string_equal(id->node, "n1");
	assert_int_equal(id->number, 7);
	assert_string_equal(id->region, "r");
	assert_string_equal(id->api, "https://m:2");
	cdm_identity_free(&id);
	static const char *const bad[] = {"", "[]", "{", "{\"node\":\"n1\"}", "{\"node\":5,\"number\":1}",
		"{\"node\":\"n\",\"number\":0,\"group\":\"g\",\"region\":\"r\",\"master\":\"m:1\",\"api\":\"a\"}",
		"{\"node\":\"n\",\"number\":4294967296,\"group\":\"g\",\"region\":\"r\",\"master\":\"m:1\",\"api\":\"a\"}"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		put("identity.json", bad[i]);
		assert_int_equal(cdm_identity_load(c, &id, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "identity.json"));
		assert_null(id);
	}
	cdm_conf_free(&c);
}

static void a_set_without_routes_is_writable_with_default_excludes(void **state)
{
	struct cdm_conf *c = conf_here();
	struct cdm_policy p;
	assert_int_equal(cdm_policy_load(c, "www", &p, NULL), 0);
	assert_false(p.known);
	assert_false(p.read_only);
	assert_non_null(cdm_filter_match(&p.exclude, "a~", 2));
	cdm_policy_fini(&p);
	put("routes.json", "{\"epoch\":3,\"sets\":[{\"name\":\"other\"}]}");
	assert_int_equal(cdm_policy_load(c, "www", &p, NULL), 0);
	assert_false(p.known);
	assert_int_equal(p.epoch, 3);
	assert_non_null(cdm_filter_match(&p.exclude, "a~", 2));
	cdm_policy_fini(&p);
	unlinkat(dir_fd, "routes.json", 0);
	cdm_conf_free(&c);
}

static void a_node_that_joined_as_a_target_is_read_only_before_it_has_routes(void **state)
{
	struct cdm_conf *c = conf_here();
	struct cdm_policy p;
	put("identity.json", "{\"node\":\"n1\",\"number\":7,\"role\":\"target\"}");
	assert_int_equal(cdm_policy_load(c, "www", &p, NULL), 0);
	assert_true(p.read_only && !p.known);
	cdm_policy_fini(&p);
	put("routes.json", "{\"epoch\":3,\"sets\":[{\"name\":\"other\"}]}");
	assert_int_equal(cdm_policy_load(c, "www", &p, NULL), 0);
	assert_true(p.read_only && !p.known);
	cdm_policy_fini(&p);
	unlinkat(dir_fd, "routes.json", 0);
	put("identity.json", "{\"node\":\"n1\",\"number\":7,\"role\":\"both\"}");
	assert_int_equal(cdm_policy_load(c, "www", &p, NULL), 0);
	assert_false(p.read_only);
	cdm_policy_fini(&p);
	unlinkat(dir_fd, "identity.json", 0);
	cdm_conf_free(&c);
}

static void a_policy_is_read(void **state)
{
	struct cdm_conf *c = conf_here();
	struct cdm_policy p;
	put("routes.json", "{\"epoch\":12,\"node\":\"n1\",\"sets\":[{\"name\":\"x\"},{\"name\":\"www\",\"id\":1,\"role\":\"target\",\"update\":\"strict\","
			   "\"open\":\"ship\",\"exclude\":[\"*.bak\"],\"default_excludes\":false,\"local\":[\"cache/**\"],\"parent\":null}]}");
	assert_int_equal(cdm_policy_load(c, "www", &p, NULL), 0);
	assert_true(p.known && p.read_only && p.strict_update && p.ship_open);
	assert_int_equal(p.role, CDM_ROLE_TARGET);
	assert_int_equal(p.epoch, 12);
	assert_string_equal(cdm_filter_match(&p.exclude, "d/a.bak", 7), "*.bak");
	assert_null(cdm_filter_match(&p.exclude, "a~", 2));
	assert_non_null(cdm_filter_match(&p.local, "cache/a", 7));
	cdm_policy_fini(&p);
	put("routes.json", "{\"epoch\":12,\"sets\":[{\"name\":\"www\",\"role\":\"both\"}]}");
	assert_int_equal(cdm_policy_load(c, "www", &p, NULL), 0);
	assert_true(p.known && !p.read_only && !p.strict_update && !p.ship_open);
	assert_non_null(cdm_filter_match(&p.exclude, "a~", 2));
	cdm_policy_fini(&p);
	static const char *const bad[] = {"{", "{\"sets\":[{\"name\":\"www\",\"role\":\"king\"}]}", "{\"sets\":[{\"name\":\"www\",\"role\":1}]}",
		"{\"sets\":[{\"name\":\"www\",\"local\":\"x\"}]}", "{\"sets\":[{\"name\":\"www\",\"exclude\":[\"a/../b\"]}]}",
		"{\"sets\":[{\"name\":\"www\",\"exclude\":[7]}]}"};
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		struct cdm_error err = CDM_ERROR_INIT;
		put("routes.json", bad[i]);
		assert_true(cdm_policy_load(c, "www", &p, &err) < 0);
		assert_non_null(strstr(err.text, "set www"));
		assert_int_equal(p.exclude.count, 0);
	}
	cdm_conf_free(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(everything_given_is_read),
		cmocka_unit_test(an_empty_file_gives_the_defaults),
		cmocka_unit_test(a_long_path_is_kept_whole),
		cmocka_unit_test(mistakes_are_told_with_their_line),
		cmocka_unit_test(a_missing_file_says_where_it_belongs),
		cmocka_unit_test(paths_find_their_set),
		cmocka_unit_test(identity_is_read_or_says_how_to_join),
		cmocka_unit_test(a_set_without_routes_is_writable_with_default_excludes),
		cmocka_unit_test(a_node_that_joined_as_a_target_is_read_only_before_it_has_routes),
		cmocka_unit_test(a_policy_is_read),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
