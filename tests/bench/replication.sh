#!/usr/bin/env bash
# replication.sh [NODES] [BENCH…] — a lab of NODES (default 4) nodes in network namespaces on a journaled ext4 in memory; what a
# person sees from the outside: latency, in-place change, rename, a tree of real files, sustained saves; bytes on the wire per
# link, CPU of all programs, and rsync doing the same in the same run: the author saves to a plain directory of the first node, which is then pushed to
# rsync's daemons of all others at once, over the same links. BENCH: latency inplace rename tree rewrite version sustained (default all), bulk
# (a large file over links of RATE, default 1gbit, or "off", of MIB, default 1024, beside one plain TCP transfer over such a link).
# BUILD names the build directory (default build), IMAGE the size of the filesystem (NODES + 3 GiB, in memory: leave as much for the rest). SECONDS_SUSTAINED (default 60). Needs root, rsync, jq, python3.
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-$here/build}
nodes=${1:-4}
shift || true
benches=${*:-latency inplace rename tree rewrite version sustained}
bench=$build/tests/bench/bench_replication lab=$build/tests/lab/lab stat=$build/cdmfs/cdmfs-stat
work=$(mktemp -d /dev/shm/cdm-bench-XXXXXX)
finish() {
	if [ "${#daemon_pids[@]}" != 0 ]; then
		kill "${daemon_pids[@]}" 2>/dev/null && wait "${daemon_pids[@]}" || true
	fi
	"$lab" down --dir "$work/fs/lab" >/dev/null 2>&1 || true
	umount "$work/fs" 2>/dev/null || umount -l "$work/fs" 2>/dev/null || true
	rm -rf "$work"
}
daemon_pids=()
trap finish EXIT
# all of its memory was written before anything is measured, as the blocks of a disk are there, and as much again for what programs and page cache
# take: a virtual machine may get its memory from its host only when it is touched, at 2.5 core-seconds per GiB
head -c "${IMAGE:-$((nodes + 3))G}" /dev/zero >"$work/img" && mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$work/img" && mkdir "$work/fs" && mount -o loop "$work/img" "$work/fs"
python3 -c 'import mmap, sys; mmap.mmap(-1, int(sys.argv[1]) << 30).madvise(mmap.MADV_POPULATE_WRITE if hasattr(mmap, "MADV_POPULATE_WRITE") else 23)' "$((nodes + 3))"

"$lab" up --nodes "$nodes" --dir "$work/fs/lab" --netns
status() { "$lab" status --json --dir "$work/fs/lab"; }
source=$(status | jq -r '.nodes[0].mount')
mapfile -t targets < <(status | jq -r '.nodes[1:][].mount')

wire() { # bytes sent + received by each node's interface, one line
	local ns dev
	status | jq -r '.nodes[] | .netns + " " + .ifname' | while read -r ns dev; do
		ip -n "$ns" -s -j link show dev "$dev" | jq '.[0].stats64 | .rx.bytes + .tx.bytes'
	done | tr '\n' ' '
}
cpu() { # CPU seconds of all programs of the lab so far
	local pids
	pids=$(status | jq -r '.master.pid, (.nodes[].pids[])' | sort -u)
	for p in $pids; do cat "/proc/$p/stat" 2>/dev/null || true; done | sed 's/^.*) //' | awk -v hz="$(getconf CLK_TCK)" '{s += $12 + $13} END {printf "%.2f\n", s / hz}'
}
memory() { # of all programs of the second node; and how much each node's replicator had at most, with what it shares with other programs
	local p
	for p in $(status | jq -r '.nodes[1].pids[]'); do awk '/^Pss:/ {s += $2} END {print s + 0}' "/proc/$p/smaps_rollup" 2>/dev/null || true; done | awk '{s += $1} END {printf "%.1f MiB; replicators at most", s / 1024}'
	for p in $(status | jq -r '.nodes[].pids.replicator'); do awk '/^VmHWM:/ {printf " %.1f", $2 / 1024}' "/proc/$p/status"; done
	echo " MiB"
}
measured() { # title command…: runs it, says the bytes and CPU it took
	local title=$1 before after c0 c1
	shift
	before=$(wire) c0=$(cpu)
	"$@"
	after=$(wire) c1=$(cpu)
	paste <(tr ' ' '\n' <<<"$before") <(tr ' ' '\n' <<<"$after") | awk -v t="$title" -v c="$(echo "$c1 - $c0" | bc)" \
		'NF == 2 {d = $2 - $1; s = s " " d} END {print "  " t ": bytes at each node" s ", CPU " c " s"}'
}
seconds() { date +%s.%N; }
wait_all() { "$lab" run n1 --dir "$work/fs/lab" -- "$stat" www --wait --timeout 300 >/dev/null; }

mapfile -t addrs < <(status | jq -r '.nodes[1:][].addr | sub(":[0-9]+$"; "")')
daemons() { # rsync's, one for each target, in its namespace
	local i ns
	for i in "${!targets[@]}"; do
		mkdir "$work/fs/plain-$i"
		printf 'use chroot = no\nuid = 0\ngid = 0\nlog file = %s\n[plain]\npath = %s\nread only = no\n' "$work/rsyncd-$i.log" "$work/fs/plain-$i" >"$work/rsyncd-$i.conf"
		ns=$(status | jq -r ".nodes[$((i + 1))].netns")
		ip netns exec "$ns" rsync --daemon --no-detach --address="${addrs[$i]}" --port=8730 --config="$work/rsyncd-$i.conf" &
		daemon_pids+=($!)
		until ip netns exec "$ns" rsync "rsync://${addrs[$i]}:8730/" >/dev/null 2>&1; do timeout 0.05 tail -f /dev/null || true; done
	done
}
rsyncs() { # author [old]: what he does to a directory reaches those of all targets, which have the old one
	local i t0 t1 t2 ns pids=()
	mkdir "$work/fs/plain"
	[ $# = 1 ] || cp -a "$2" "$work/fs/plain/"
	for i in "${!targets[@]}"; do [ $# = 1 ] || cp -a "$2" "$work/fs/plain-$i/"; done
	sync -f "$work/fs"
	ns=$(status | jq -r '.nodes[0].netns')
	t0=$(seconds)
	"$1" "$work/fs/plain"
	t1=$(seconds)
	for i in "${!targets[@]}"; do
		ip netns exec "$ns" rsync -aHAX --delete --stats "$work/fs/plain/" "rsync://${addrs[$i]}:8730/plain/" >"$work/rsync-$i" &
		pids+=($!)
	done
	wait "${pids[@]}"
	t2=$(seconds)
	sync -f "$work/fs"
	echo "  rsync: written in $(echo "$t1 - $t0" | bc) s, on all after $(echo "$t2 - $t0" | bc) s, on their disks after $(echo "$(seconds) - $t0" | bc) s; bytes each $(awk '/^Total bytes (sent|received)/ {gsub(",", ""); s += $4} END {print s}' "$work/rsync-0")"
	rm -rf "$work/fs/plain" "$work"/fs/plain-*/*
}
cdmfs_does() { # author: the same through the mount
	local t0 t1
	t0=$(seconds)
	"$1" "$source"
	t1=$(seconds)
	wait_all
	echo "  cdmfs: written in $(echo "$t1 - $t0" | bc) s, on all, and on their disks, after $(echo "$(seconds) - $t0" | bc) s"
}

author_tree() { cp -a "$work/fs/tree" "$1/tree"; }
run_tree() {
	local package=openjdk-17-doc
	mkdir -p "$work/fs/tree"
	(cd "$work" && apt-get -qq download "$package" >/dev/null 2>&1 && dpkg -x "$package"*.deb "$work/fs/tree")
	find "$work/fs/tree" -type l -delete
	echo "tree: $(find "$work/fs/tree" -type f | wc -l) files, $(du -sm "$work/fs/tree" | cut -f1) MiB"
	measured "tree" cdmfs_does author_tree
	for t in "${targets[@]}"; do rsync -naHAXic --delete --modify-window=-1 "$source/tree/" "$t/tree/" | head -3; done
	rsyncs author_tree
	rm -rf "$work"/*.deb
}

stats() { # node counter: of the replicator
	python3 -c 'import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"{\"cmd\":\"stats\"}\n")
print(json.loads(s.makefile().readline())["sets"]["www"].get(sys.argv[2], 0))' "$work/fs/lab/$1/run/control.sock" "$2"
}
settle() { # until no node has signatures to take: what follows is to find them
	local n
	for n in $(status | jq -r '.nodes[].name'); do
		until [ "$(stats "$n" signing)" = 0 ]; do timeout 0.2 tail -f /dev/null || true; done
	done
}
counts() { # of the source
	local c
	for c in signatures signing deltas_sent delta_saved_bytes deltas_refused changes_sent content_sent_bytes superseded needs_answered; do echo -n "$c $(stats n1 $c)  "; done
	echo "refused by a target $(stats n2 deltas_refused)"
}
author_rewrite() { cp "$work/fs/new.bin" "$1/rewritten.bin.new" && mv "$1/rewritten.bin.new" "$1/rewritten.bin"; }
run_rewrite() {
	local new=$work/fs/new.bin old=$work/fs/rewritten.bin
	head -c 268435456 /dev/urandom >"$old"
	(head -c 26843545 "$old" && head -c 1048576 /dev/urandom && tail -c +26843546 "$old") >"$new"
	cp "$old" "$source/rewritten.bin" && wait_all && settle
	echo "256 MiB with 1 MiB inserted at a tenth, written anew and renamed over"
	measured "rewrite" cdmfs_does author_rewrite
	rsyncs author_rewrite "$old"
	rm -f "$old" "$new" "$source/rewritten.bin" && wait_all
}

author_version() { rsync -a --delete "$work/fs/version-1/" "$1/version/"; }
run_version() { # the newest two versions of a documentation package that the archive has
	local package=openjdk-17-doc versions v i=0
	mapfile -t versions < <(apt-cache madison "$package" | awk '{print $3}' | sort -uV | tail -2)
	for v in "${versions[@]}"; do
		mkdir -p "$work/fs/version-$i" && (cd "$work" && apt-get -qq download "$package=$v" >/dev/null 2>&1 && dpkg -x "$package"*.deb "$work/fs/version-$i" && rm "$package"*.deb)
		find "$work/fs/version-$i" -type l -delete
		i=$((i + 1))
	done
	echo "versions ${versions[*]}: $(find "$work/fs/version-1" -type f | wc -l) files, $(du -sm "$work/fs/version-1" | cut -f1) MiB"
	mv "$work/fs/version-0" "$work/fs/version"
	rsync -a "$work/fs/version/" "$source/version/" && wait_all && settle
	echo "  before: $(counts)"
	measured "next version" cdmfs_does author_version
	echo "  after: $(counts)"
	for i in "${!targets[@]}"; do rsync -naHAXic --delete --modify-window=-1 "$source/version/" "${targets[$i]}/version/" | head -3; done
	rsyncs author_version "$work/fs/version"
	rm -rf "$work"/fs/version*
}

shape() { status | jq -r '.nodes[].name' | while read -r n; do "$lab" slow "$n" "$1" --dir "$work/fs/lab" >/dev/null; done; }
run_bulk() {
	local mib=${MIB:-1024} a b addr t0 t plain last
	head -c "${mib}M" /dev/urandom >"$work/fs/bulk" && sync -f "$work/fs"
	shape "${RATE:-1gbit}"
	read -r a b addr < <(status | jq -r '[.nodes[0].netns, .nodes[1].netns, (.nodes[1].addr | sub(":[0-9]+$"; ""))] | join(" ")')
	ip netns exec "$b" "$here/tests/bench/tcp.py" receive 9 &
	plain=$(ip netns exec "$a" "$here/tests/bench/tcp.py" send "$addr" 9 "$work/fs/bulk")
	wait $!
	echo "bulk: $mib MiB; one plain TCP transfer over a link of ${RATE:-1gbit}: $plain s"
	measure_bulk() {
		t0=$(seconds)
		cp "$work/fs/bulk" "$source/bulk"
		t=$(seconds)
		for target in "${targets[@]}"; do
			until [ -s "$target/bulk" ]; do timeout 0.05 tail -f /dev/null || true; done
		done
		last=$(seconds)
		wait_all
		echo "  copied in $(echo "$t - $t0" | bc) s, visible on all $(echo "$last - $t0" | bc) s after its begin, $(echo "scale=2; ($last - $t) / $plain" | bc) of the plain transfer after its end, durable on all $(echo "$(seconds) - $t0" | bc) s"
	}
	measured "bulk" measure_bulk
	for target in "${targets[@]}"; do cmp "$work/fs/bulk" "$target/bulk"; done
	shape off
	rm -f "$work/fs/bulk" "$source/bulk" && wait_all
}

daemons
for b in $benches; do
	case $b in
	bulk) run_bulk ;;
	latency) measured "200 saves of 10 KiB" "$bench" latency "$source" "${targets[@]}" ;;
	inplace) measured "1 GiB and 10 changes of 4 KiB" "$bench" inplace "$source" "${targets[@]}"
		measured "one more 4 KiB change" bash -c 'printf "%4096s" x | dd of="$0/big.bin" bs=4096 seek=777 conv=notrunc status=none; "$1" run n1 --dir "$2" -- "$3" www --wait --timeout 60 >/dev/null' "$source" "$lab" "$work/fs/lab" "$stat"
		rm -f "$source/big.bin"; wait_all ;;
	rename) measured "5,000 files and 5 renames" "$bench" rename "$source" "${targets[@]}"
		measured "one more rename" bash -c 'mv "$0/many-5" "$0/many-6"; "$1" run n1 --dir "$2" -- "$3" www --wait --timeout 60 >/dev/null' "$source" "$lab" "$work/fs/lab" "$stat" ;;
	tree) run_tree ;;
	rewrite) run_rewrite ;;
	version) run_version ;;
	sustained) echo "memory of a node before: $(memory)"
		measured "sustained" "$bench" sustained "$source" "${targets[@]}" seconds="${SECONDS_SUSTAINED:-60}"
		echo "memory of a node after: $(memory)" ;;
	*) echo "unknown benchmark $b" >&2; exit 2 ;;
	esac
done
echo "memory of a node: $(memory)"
c0=$(cpu); timeout 10 tail -f /dev/null || true
echo "idle for 10 s: CPU $(echo "$(cpu) - $c0" | bc) s"
