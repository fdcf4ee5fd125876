/* SPDX-License-Identifier: Apache-2.0 */
/* The end of a mount, phase by phase: nothing is seen any more, the watcher has passed on all closes, everything dirty is written, the journal
 * is closed. */
#include <signal.h>
#include <sys/mount.h>
#include "cdmfs/holder.h"
#include "cdmfs/holder_parts.h"
#include "common/log.h"

#define SERVER_END_MS 60000 /* for closing the journal after the unmount */

void holder_enter_end(struct holder *h, enum phase phase)
{
	h->phase = phase;
	holder_end_step(h);
}

static void on_unbound(struct holder *h, int result, const struct cdm_error *err)
{
	if (result < 0)
		cdm_log_err(failed, err);
	h->visible_id = 0;
	holder_enter_end(h, PHASE_END_WATCHER);
}

static void on_full_unmounted(struct holder *h, int result, const struct cdm_error *err)
{
	if (result < 0)
		cdm_log_err(failed, err);
	h->full_mounted = false;
	holder_enter_end(h, PHASE_END_SERVER);
}

static void on_server_end_late(struct holder *h, struct source *s)
{
	source_drop(s);
	cdm_log(child_hangs, cdm_str("program", "server"), cdm_str("msg", "does not end; killed"));
	child_signal(&h->server, SIGKILL);
}

void holder_end_server(struct holder *h)
{
	child_signal(&h->server, SERVER_END_SIGNAL);
	if (h->deadline.fd < 0)
		timer_start(h, &h->deadline, SERVER_END_MS, on_server_end_late, NULL);
}

static void end_server_step(struct holder *h)
{
	bool stopped = h->server.wanted && h->server.once_ready; /* not by force, nor because it cannot start */

	h->server.wanted = false;
	source_drop(&h->server.delay);
	if (h->server.pid == 0 && !(stopped && holder_start_closer(h))) /* it had died and was to be started later */
		holder_enter_end(h, PHASE_OVER);
	else
		holder_end_server(h);
}

/* Do what the phase of the end asks; go on at once where there is nothing to wait for. */
void holder_end_step(struct holder *h)
{
	switch (h->phase) {
	case PHASE_END_BIND:
		if (h->visible_id == 0)
			return holder_enter_end(h, PHASE_END_WATCHER);
		helper_start(h, "cdmfs-unmount", unbind_in_helper, on_unbound);
		return;
	case PHASE_END_WATCHER:
		h->watcher.wanted = false;
		source_drop(&h->watcher.delay);
		if (h->watcher.pid == 0)
			return holder_enter_end(h, PHASE_END_FULL);
		child_signal(&h->watcher, SIGTERM);
		return;
	case PHASE_END_FULL:
		if (!h->full_mounted)
			return holder_enter_end(h, PHASE_END_SERVER);
		helper_start(h, "cdmfs-unmount", unmount_full_in_helper, on_full_unmounted);
		return;
	case PHASE_END_SERVER:
		return end_server_step(h);
	default:
		return;
	}
}

void holder_begin_end(struct holder *h, const char *reason)
{
	if (h->phase >= PHASE_END_BIND)
		return;
	cdm_log(mount_ends, cdm_str("mountpoint", h->mountpoint), cdm_str("reason", reason));
	notify_systemd("STOPPING=1\nSTATUS=unmounting, %s", reason);
	h->phase = PHASE_END_BIND;
	if (!h->start_helper) /* otherwise its end goes on from here */
		holder_end_step(h);
}

/* The second signal to end: somebody is tired of waiting. The kernel is told to end every call with an error. */
void holder_end_by_force(struct holder *h)
{
	h->server.wanted = h->watcher.wanted = false;
	umount2(h->full, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW);
	child_signal(&h->server, SIGKILL);
	child_signal(&h->watcher, SIGKILL);
}
