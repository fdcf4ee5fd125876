/* SPDX-License-Identifier: Apache-2.0 */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include "common/io.h"
#include "master/cdmctl.h"

#define ANSWER_MAX (64u << 20)

struct place { /* where the master is and what to show it */
	char *api, *token, *ca;
};
struct answer {
	char *text;
	size_t len;
};

static const char *pick(const char *option, const char *variable)
{
	const char *value = option ? option : getenv(variable);
	return value && value[0] ? value : NULL;
}

static char *join_path(const char *dir, const char *name)
{
	char *path = NULL;
	return dir && asprintf(&path, "%s/%s", dir, name) >= 0 ? path : NULL;
}

static int read_token(const char *path, char **ret, struct cdm_error *err)
{
	size_t len;
	int r = cdm_read_file(AT_FDCWD, path, 4096, ret, &len, err);
	if (r < 0)
		cdm_hint(err, r == -EACCES ? "the token belongs to the master's administrator; use sudo or your own copy" : "name the file with --token-file or CDMFS_TOKEN_FILE, or the master's directory with --dir");
	else
		(*ret)[strcspn(*ret, "\r\n")] = 0;
	return r;
}

static int read_api(const char *dir, char **ret, struct cdm_error *err)
{
	_cleanup_free_ char *path = join_path(dir, "endpoints.json"), *text = NULL;
	size_t len;
	int r = cdm_read_file(AT_FDCWD, path, 4096, &text, &len, err);
	if (r < 0) {
		cdm_fail_plain(err, ENOENT, "no running master in %s (%s is not there)", dir, path);
		cdm_hint(err, "start it: cdm-master --dir %s; for a master on another host use --api, --token-file and --ca", dir);
		return r;
	}
	json_t *j = json_loads(text, 0, NULL);
	const char *api = json_string_value(json_object_get(j, "api"));
	*ret = api ? strdup(api) : NULL;
	json_decref(j);
	return *ret ? 0 : cdm_fail_plain(err, EBADMSG, "%s cannot be read", path);
}

static int find_place(const struct options *o, struct place *p, struct cdm_error *err)
{
	const char *dir = pick(o->dir, "CDMFS_DIR"), *api = pick(o->api, "CDMFS_API");
	const char *token_file = pick(o->token_file, "CDMFS_TOKEN_FILE"), *ca = pick(o->ca, "CDMFS_CA");
	_cleanup_free_ char *in_dir = join_path(dir, "admin.token");
	if (!dir && !(api && token_file && ca)) {
		cdm_fail_plain(err, EINVAL, "where is the master?");
		cdm_hint(err, "on its host: --dir DIR (or CDMFS_DIR); elsewhere: --api URL --token-file F --ca F (or CDMFS_API, CDMFS_TOKEN_FILE, CDMFS_CA)");
		return -EINVAL;
	}
	p->ca = ca ? strdup(ca) : join_path(dir, "ca.crt");
	int r = read_token(token_file ? token_file : in_dir, &p->token, err);
	if (r == 0 && api)
		p->api = strdup(api);
	else if (r == 0)
		r = read_api(dir, &p->api, err);
	if (r == 0 && access(p->ca, R_OK) < 0) {
		r = cdm_fail(err, errno, "CA certificate %s", p->ca);
		cdm_hint(err, "copy ca.crt from the master's directory and name it with --ca or CDMFS_CA");
	}
	if (r == 0 && p->api[0] && p->api[strlen(p->api) - 1] == '/')
		p->api[strlen(p->api) - 1] = 0;
	return r;
}

static void place_fini(struct place *p)
{
	free(p->api);
	free(p->token);
	free(p->ca);
}

static size_t on_bytes(char *bytes, size_t size, size_t count, void *arg)
{
	struct answer *a = arg;
	size_t len = size * count;
	char *grown = a->len + len < ANSWER_MAX ? realloc(a->text, a->len + len + 1) : NULL;
	if (!grown)
		return 0;
	memcpy(grown + a->len, bytes, len);
	a->text = grown;
	a->len += len;
	a->text[a->len] = 0;
	return len;
}

struct stream {
	bool json;
	size_t len;
	char line[16384]; /* longer ones are cut */
};

/* "data: {…}" → one line per event. */
static void print_event(const struct stream *s)
{
	if (strncmp(s->line, "data: ", 6) != 0)
		return;
	json_t *j = s->json ? NULL : json_loads(s->line + 6, 0, NULL);
	const char *at, *name, *set, *text;
	if (j && json_unpack(j, "{s:s, s:s, s:s, s:s}", "at", &at, "name", &name, "set", &set, "text", &text) == 0)
		printf("%s  %-16s %s%s%s\n", at, name, set, set[0] ? "  " : "", text);
	else
		puts(s->line + 6);
	json_decref(j);
}

static size_t on_stream(char *bytes, size_t size, size_t count, void *arg)
{
	struct stream *s = arg;
	for (size_t i = 0; i < size * count; i++) {
		if (bytes[i] == '\n') {
			s->line[s->len] = 0;
			print_event(s);
			s->len = 0;
		} else if (s->len < sizeof s->line - 1) {
			s->line[s->len++] = bytes[i];
		}
	}
	return fflush(stdout) == 0 ? size * count : 0;
}

static void explain_curl(CURLcode code, const char *detail, const struct place *p, struct cdm_error *err)
{
	cdm_fail_plain(err, EIO, "%s: %s", p->api, detail[0] ? detail : curl_easy_strerror(code));
	if (code == CURLE_COULDNT_CONNECT || code == CURLE_OPERATION_TIMEDOUT)
		cdm_hint(err, "is cdm-master running there, and is the port reachable?");
	else if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE)
		cdm_hint(err, "this is not the master that %s belongs to, or it does not know this name: start it with --advertise NAME", p->ca);
	else if (code == CURLE_COULDNT_RESOLVE_HOST)
		cdm_hint(err, "check the host name in --api or CDMFS_API");
}

static struct curl_slist *make_headers(const struct place *p)
{
	char auth[4200], key[64];
	unsigned long long random[2] = {0};
	if (getrandom(random, sizeof random, 0) != sizeof random)
		random[0] = (unsigned long long)getpid();
	snprintf(auth, sizeof auth, "Authorization: Bearer %.4096s", p->token);
	snprintf(key, sizeof key, "Idempotency-Key: %016llx%016llx", random[0], random[1]);
	struct curl_slist *list = curl_slist_append(NULL, auth);
	list = curl_slist_append(list, key);
	list = curl_slist_append(list, "Content-Type: application/json");
	return curl_slist_append(list, "Expect:");
}

static CURL *make_request(const struct place *p, const char *url, struct curl_slist *headers, char *detail)
{
	CURL *curl = curl_easy_init();
	if (!curl)
		abort();
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https");
	curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CAINFO, p->ca);
	curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
	curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_3);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "cdmctl/" CDM_VERSION);
	return curl;
}

/* The answer of the master as JSON, or its problem printed. */
static json_t *read_answer(const struct answer *a, long status, int *code)
{
	struct cdm_error err = CDM_ERROR_INIT;
	json_t *j = a->text ? json_loadb(a->text, a->len, 0, NULL) : NULL;
	if (status < 300 && j) {
		*code = EXIT_GOOD;
		return j;
	}
	const char *detail = json_string_value(json_object_get(j, "detail")), *hint = json_string_value(json_object_get(j, "hint"));
	cdm_fail_plain(&err, EIO, "%s", detail ? detail : status == 413 ? "the request is too large" : "the answer of the master cannot be read");
	if (hint && hint[0])
		cdm_hint(&err, "%s", hint);
	cdm_error_print("cdmctl", &err);
	json_decref(j);
	*code = status == 409 ? EXIT_CONFLICT : status == 400 ? EXIT_USAGE : EXIT_FAILED;
	return NULL;
}

json_t *master_call(const struct options *o, const char *method, const char *path, json_t *body, int *code)
{
	struct place p = {0};
	struct answer a = {0};
	struct cdm_error err = CDM_ERROR_INIT;
	char url[2048], detail[CURL_ERROR_SIZE] = "";
	json_t *result = NULL;
	int r = find_place(o, &p, &err);
	if (r < 0) {
		cdm_error_print("cdmctl", &err);
		*code = r == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
	} else {
		bool changes = strcmp(method, "GET") != 0;
		snprintf(url, sizeof url, "%s/api/v1%s%s", p.api, path, changes && o->dry_run ? "?dry_run=1" : "");
		_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
		struct curl_slist *headers = make_headers(&p);
		CURL *curl = make_request(&p, url, headers, detail);
		curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
		curl_easy_setopt(curl, CURLOPT_TIMEOUT, o->patience_s ? o->patience_s : 60L);
		curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_bytes);
		curl_easy_setopt(curl, CURLOPT_WRITEDATA, &a);
		if (text)
			curl_easy_setopt(curl, CURLOPT_POSTFIELDS, text);
		CURLcode done = curl_easy_perform(curl);
		long status = 0;
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
		if (done == CURLE_OK) {
			result = read_answer(&a, status, code);
		} else {
			explain_curl(done, detail, &p, &err);
			cdm_error_print("cdmctl", &err);
			*code = EXIT_FAILED;
		}
		curl_easy_cleanup(curl);
		curl_slist_free_all(headers);
	}
	json_decref(body);
	free(a.text);
	place_fini(&p);
	return result;
}

int master_follow(const struct options *o)
{
	struct place p = {0};
	struct cdm_error err = CDM_ERROR_INIT;
	struct stream s = {.json = o->json};
	char url[2048], detail[CURL_ERROR_SIZE] = "";
	int r = find_place(o, &p, &err);
	if (r == 0) {
		snprintf(url, sizeof url, "%s/api/v1/events", p.api);
		struct curl_slist *headers = make_headers(&p);
		CURL *curl = make_request(&p, url, headers, detail);
		curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
		curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_stream);
		curl_easy_setopt(curl, CURLOPT_WRITEDATA, &s);
		CURLcode done = curl_easy_perform(curl);
		if (done != CURLE_OK) {
			explain_curl(done, detail, &p, &err);
			r = -EIO;
		}
		curl_easy_cleanup(curl);
		curl_slist_free_all(headers);
	}
	if (r < 0)
		cdm_error_print("cdmctl", &err);
	place_fini(&p);
	return r < 0 ? EXIT_FAILED : EXIT_GOOD;
}
