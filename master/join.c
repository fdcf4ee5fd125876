/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "common/log.h"
#include "master/master.h"

struct join {
	struct master *master;
	struct ca_request *request;
	char serial[CA_SERIAL_TEXT], address[64];
	join_done_fn *done;
	void *arg;
};

json_t *problem_new(int status, const char *detail, const char *hint)
{
	const char *title = status == 400 ? "Bad Request" : status == 401 ? "Unauthorized" : status == 404 ? "Not Found" : status == 405 ? "Method Not Allowed"
		: status == 409 ? "Conflict" : status == 413 ? "Content Too Large" : status == 429 ? "Too Many Requests" : status == 503 ? "Service Unavailable"
											: "Internal Server Error";
	json_t *text = json_string(detail);
	return json_pack("{s:s, s:s, s:i, s:o, s:s}", "type", "about:blank", "title", title, "status", status, "detail",
		text ? text : json_string("not UTF-8"), "hint", hint ? hint : "");
}

int problem_status(int error)
{
	switch (-error) {
	case EINVAL: return 400;
	case EACCES: return 401;
	case ENOENT: return 404;
	case EEXIST:
	case EBUSY:
	case ELOOP: return 409;
	case EIO:
	case ENOSPC: return 503;
	}
	return 500;
}

static void answer(struct join *j, int status, json_t *body)
{
	j->done(j->arg, status, body);
	json_decref(body);
	ca_request_free(&j->request);
	free(j);
}

static void refuse(struct join *j, int status, const char *detail, const char *hint)
{
	answer(j, status, problem_new(status, detail, hint));
}

static void refuse_token(struct join *j, const struct cdm_error *why)
{
	token_limiter_failed(&j->master->limiter, j->address, master_now_ms());
	cdm_log_err(join_refused, why, cdm_str("address", j->address));
	refuse(j, 401, "token not valid (expired, used up or unknown)", "make a new one: cdmctl node token --group GROUP; the master's log says which it was");
}

static void on_joined(void *arg, int error, const json_t *result, const struct cdm_error *err)
{
	struct join *j = arg;
	struct cdm_error issue = CDM_ERROR_INIT;
	if (error == -EACCES) {
		refuse_token(j, err);
		return;
	}
	if (error < 0) {
		cdm_log_err(join_refused, err, cdm_str("address", j->address));
		refuse(j, problem_status(error), err->text, err->hint);
		return;
	}
	const char *name = json_string_value(json_object_get(result, "node"));
	uint32_t number = (uint32_t)json_integer_value(json_object_get(result, "number"));
	_cleanup_free_ char *pem = NULL;
	if (ca_issue(j->master->ca, j->request, name, number, j->serial, j->master->conf->certificate_life_s, &pem, &issue) < 0) {
		cdm_log_err(join_refused, &issue, cdm_str("address", j->address), cdm_str("node", name));
		refuse(j, 500, issue.text, "remove the node with cdmctl node remove and join again");
		return;
	}
	char agents[300], api[300];
	master_agents_address(j->master, agents);
	master_api_url(j->master, api);
	json_t *body = json_copy((json_t *)result);
	json_object_set_new(body, "certificate", json_string(pem));
	json_object_set_new(body, "ca", json_string(ca_pem(j->master->ca)));
	json_object_set_new(body, "master", json_string(agents));
	json_object_set_new(body, "api", json_string(api));
	cdm_log(node_joined, cdm_str("node", name), cdm_uint("number", number), cdm_str("group", json_string_value(json_object_get(result, "group"))),
		cdm_str("address", j->address));
	news_tell(j->master->news, 5, "node.joined", name, NULL, "%s joined group %s from %s", name, json_string_value(json_object_get(result, "group")), j->address);
	answer(j, 200, body);
}

/* The body's fields, all checked; returns the hash of the secret in `args`. */
static json_t *read_body(struct join *j, const char *body, size_t len, struct cdm_error *err, bool *token_bad)
{
	json_error_t where;
	const char *text, *name = NULL, *csr;
	size_t csr_len;
	struct token t;
	json_t *args = NULL, *in = json_loadb(body, len, JSON_REJECT_DUPLICATES, &where);
	if (!in || !json_is_object(in)) {
		cdm_fail_plain(err, EINVAL, "the body is not a JSON object%s%s", in ? "" : ": ", in ? "" : where.text);
	} else if (json_unpack_ex(in, &where, JSON_STRICT, "{s:s, s?:s, s:s%}", "token", &text, "name", &name, "csr", &csr, &csr_len) < 0) {
		cdm_fail_plain(err, EINVAL, "%s (fields are token, name, csr)", where.text);
	} else if (ca_request_parse(csr, csr_len, &j->request, err) == 0 && ca_make_serial(j->serial, err) == 0) {
		if (token_parse(text, &t) < 0 || !token_hash_equal(t.ca, ca_fingerprint(j->master->ca))) {
			*token_bad = true;
			cdm_fail_plain(err, EACCES, "not a token of this installation");
		} else {
			char hash[TOKEN_HASH_TEXT];
			token_hash(t.secret, hash);
			args = json_pack("{s:s, s:s, s:s?, s:s, s:I}", "id", t.id, "hash", hash, "name", name, "serial", j->serial, "now", (json_int_t)time(NULL));
		}
	}
	json_decref(in);
	return args;
}

void join_start(struct master *m, const char *address, const char *body, size_t len, join_done_fn *done, void *arg)
{
	struct join *j = calloc(1, sizeof *j);
	struct cdm_error err = CDM_ERROR_INIT;
	bool token_bad = false;
	if (!j) {
		done(arg, 503, NULL);
		return;
	}
	j->master = m;
	j->done = done;
	j->arg = arg;
	snprintf(j->address, sizeof j->address, "%s", address);
	if (!token_limiter_allows(&m->limiter, address, master_now_ms())) {
		refuse(j, 429, "too many failed attempts from this address", "wait a minute, then try again with a valid token");
		return;
	}
	json_t *args = read_body(j, body, len, &err, &token_bad);
	struct registry_who who = {.account = "token", .address = address};
	if (args)
		registry_submit(m->registry, REG_NODE_JOIN, args, &who, false, on_joined, j);
	else if (token_bad)
		refuse_token(j, &err);
	else
		refuse(j, 400, err.text, err.hint);
}
