/* SPDX-License-Identifier: Apache-2.0 */
/* What a node keeps on its disk is damaged, or something else lies there. Where content could get wrong it does not start and says what to do;
 * what can be had again it gets again. n2 is the node; the others notice nothing. */
#include "tests/cluster/story.h"

#include <stdlib.h>
#include <string.h>

/* Run in a shell with $STORE $STATE $RUN of n2, and $J its oldest segment; `restore` afterwards. RUN is lost with `power`. */
struct damage {
	const char *what, *damage, *restore;
	bool power;
	const char *says; /* NULL: it starts, and gets what is new */
};

#define FLIP "printf '\\377' | dd bs=1 conv=notrunc status=none of="
#define GARBAGE "head -c 60000 /dev/urandom | dd conv=notrunc status=none of="

static const struct damage damages[] = {
	{"a byte in the middle of the journal", "cp $J $STORE/kept && " FLIP "$J seek=6000", "mv $STORE/kept $J", true, "check the disk"},
	{"a byte in the header of a segment", "cp $J $STORE/kept && " FLIP "$J seek=3", "mv $STORE/kept $J", true, "header is damaged"},
	{"a directory for a segment", "mv $J $STORE/kept && mkdir $J", "rmdir $J && mv $STORE/kept $J", true, "Is a directory"},
	{"a symlink for a segment", "mv $J $STORE/kept && ln -s /etc/passwd $J", "mv $STORE/kept $J", true, "symbolic links"},
	{"a symlink for the journal", "mv $STORE/.cdmfs/journal $STORE/kept && ln -s /etc $STORE/.cdmfs/journal",
		"rm $STORE/.cdmfs/journal && mv $STORE/kept $STORE/.cdmfs/journal", true, "Not a directory"},
	{"the journal put aside, as the advice says", "rm -rf $STORE/.cdmfs/journal/*", "true", true, NULL},
	{"a format that is none", "cp $STORE/.cdmfs/format $STORE/kept; echo '{\"format\":' > $STORE/.cdmfs/format", "mv $STORE/kept $STORE/.cdmfs/format", false,
		"format is damaged"},
	{"a format of another version", "cp $STORE/.cdmfs/format $STORE/kept; sed -i 's/\"format\": *1/\"format\":99/' $STORE/.cdmfs/format",
		"mv $STORE/kept $STORE/.cdmfs/format", false, "format"},
	{"the store of another set", "cp $STORE/.cdmfs/format $STORE/kept; sed -i s/www/shop/ $STORE/.cdmfs/format", "mv $STORE/kept $STORE/.cdmfs/format", false, "shop"},
	{"routes without sense", "echo '{\"epoch\":-1,\"sets\":{}}' > $STATE/routes.json", "true", false, NULL},
	{"routes that are no JSON", GARBAGE "$STATE/routes.json", "rm $STATE/routes.json", false, "cdm-replicator"},
	{"an identity that is none", "cp $STATE/identity.json $STORE/kept; echo '{\"number\":4294967296}' > $STATE/identity.json",
		"mv $STORE/kept $STATE/identity.json", false, "join again"},
	{"a tail that is none", GARBAGE "$RUN/tail", "true", false, NULL},
	{"a note for the next writer that is none", GARBAGE "$RUN/resume", "true", false, NULL},
	{"a note for the next writer cut short", "truncate -s 99 $RUN/resume", "true", false, NULL},
	{"a note whose tail is gone", "cp $RUN/resume $STATE/kept && rm $RUN/tail", "true", false, NULL},
	{"that note put back beside the next tail", "mv $STATE/kept $RUN/resume", "true", false, NULL},
	{"node tables that are none", GARBAGE "$RUN/nodes; " GARBAGE "$RUN/inflight", "true", false, NULL},
	{"pids of others", "echo '{\"holder\":1,\"server\":1,\"watcher\":-5' > $RUN/pids", "true", false, NULL},
	{"a FIFO for what the replicator tells", "rm -f $RUN/peers && mkfifo $RUN/peers", "true", false, NULL},
};

static void at_n2(const char *command)
{
	shell("n1", "STORE=%s STATE=%s/n2/state RUN=%s J=$(ls -d %s/.cdmfs/journal/*.log 2> /dev/null | head -1); { %s; }", lab_store(lab, "n2"), lab_dir(lab),
		lab_run_dir(lab, "n2"), lab_store(lab, "n2"), command);
}

static void try(const struct damage *d, unsigned number)
{
	struct cdm_error err = CDM_ERROR_INIT;
	char text[32];
	node_killed("n2");
	shell("n1", "umount -l %s %s/full 2> /dev/null; true", lab_mount(lab, "n2"), lab_run_dir(lab, "n2"));
	if (d->power)
		shell("n1", "umount -l %s 2> /dev/null; rm -rf %s/*", lab_run_dir(lab, "n2"), lab_run_dir(lab, "n2"));
	at_n2(d->damage);
	int r = lab_start_node(lab, "n2", &err);
	if (d->says && (r == 0 || !strstr(err.text, d->says)))
		fail_msg("%s: it %s: %s", d->what, r == 0 ? "starts" : "says", err.text);
	if (!d->says && r < 0)
		fail_msg("%s: %s", d->what, err.text);
	if (d->says) {
		node_killed("n2");
		at_n2(d->restore);
		node_started("n2");
	}
	snprintf(text, sizeof text, "after %u", number);
	save("n1", "probe", text);
	gets_text("n2", "probe", text);
}

static void what_is_damaged_is_said_or_had_again(void **state)
{
	for (int i = 0; i < 30; i++) {
		char name[16];
		snprintf(name, sizeof name, "file-%d", i);
		save("n1", name, "content");
	}
	everywhere_equal();
	for (unsigned i = 0; i < sizeof damages / sizeof *damages; i++) {
		print_message("%s\n", damages[i].what);
		try(&damages[i], i);
	}
	everywhere_equal();
}

int main(void)
{
	const struct CMUnitTest stories[] = {cmocka_unit_test(what_is_damaged_is_said_or_had_again)};
	return STORIES("damaged", ((struct lab_options){.nodes = 3}), stories);
}
