/* SPDX-License-Identifier: Apache-2.0 */
#include "replicator/hold_command.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "common/conf.h"
#include "common/io.h"
#include "common/text.h"

static int connect_control(const char *path, struct cdm_error *err)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof addr.sun_path)
		return cdm_fail_plain(err, ENAMETOOLONG, "control socket %s: the path is too long", path);
	strcpy(addr.sun_path, path);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
		return cdm_take_fd(&fd);
	cdm_fail(err, errno, "ask the replicator at %s", path);
	cdm_hint(err, "does cdm-replicator run on this node? systemctl status cdm-replicator");
	return -err->number;
}

/* One line out, one line in. NULL: err. */
static json_t *ask(const char *path, json_t *request, struct cdm_error *err)
{
	_cleanup_close_ int fd = connect_control(path, err);
	_cleanup_free_ char *text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (fd < 0 || !text)
		return NULL;
	FILE *f = fdopen(cdm_take_fd(&fd), "r+");
	json_t *answer = NULL;
	if (f && fprintf(f, "%s\n", text) > 0 && fflush(f) == 0)
		answer = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL);
	if (f)
		fclose(f);
	const char *error = json_string_value(json_object_get(answer, "error")), *hint = json_string_value(json_object_get(answer, "hint"));
	if (answer && !error)
		return answer;
	cdm_fail_plain(err, EIO, "%s", error ? error : "the replicator gave no answer");
	if (hint)
		cdm_hint(err, "%s", hint);
	json_decref(answer);
	return NULL;
}

static const char *text_of(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));
	return s ? s : "";
}

static void print_hold(const json_t *hold)
{
	char removals[32], names[32];
	size_t i;
	json_t *path;
	cdm_text_count((uint64_t)json_integer_value(json_object_get(hold, "removals")), removals, sizeof removals);
	cdm_text_count((uint64_t)json_integer_value(json_object_get(hold, "names")), names, sizeof names);
	printf("%s %s delete %s of %s names here, which are not on %s", text_of(hold, "id"), text_of(hold, "set"), removals, names, text_of(hold, "peer"));
	json_array_foreach(json_object_get(hold, "examples"), i, path)
		printf("%s%s", i ? ", " : ": ", json_string_value(path));
	putchar('\n');
}

int hold_command(const char *config, const char *decision, const char *id, struct cdm_error *err)
{
	struct cdm_conf *conf = NULL;
	size_t i;
	json_t *hold;
	if (cdm_conf_load(config, &conf, err) < 0)
		return EXIT_FAILURE;
	json_t *answer = ask(conf->control, json_pack("{s:s, s:s*, s:s*}", "cmd", "hold", "id", id, "decision", decision), err);
	cdm_conf_free(&conf);
	if (!answer)
		return EXIT_FAILURE;
	if (decision)
		printf("%s %s\n", id, text_of(json_object_get(answer, "result"), "decision"));
	json_array_foreach(json_object_get(answer, "holds"), i, hold)
		print_hold(hold);
	if (!decision && !i)
		puts("nothing is held here");
	json_decref(answer);
	return EXIT_SUCCESS;
}
