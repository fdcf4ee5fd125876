#!/usr/bin/env bash
# idle.sh [DIR [SECONDS]] — what an installation costs when nobody does anything: CPU time, bytes handed to the disk and wake-ups of the master
# and all programs of four nodes with their mounts over SECONDS (10). DIR (not there yet; a lab is made in it and removed) lies on the
# filesystem that is to hold the stores. Wanted: no byte written, and CPU that no tool shows.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
lab=${BUILD:-$root/build}/tests/lab/lab dir=${1:-/var/tmp/cdmfs-bench-idle} seconds=${2:-10}
"$lab" up --nodes 4 --dir "$dir" >/dev/null
trap '"$lab" down --purge --dir "$dir" >/dev/null' EXIT
cp -a /usr/share/doc/bash* "$dir/n1/mnt/" 2>/dev/null || true
"$lab" run n1 --dir "$dir" -- cdmfs-stat www --wait >/dev/null

# pid name, of every process
processes() {
	"$lab" status --json --dir "$dir" | jq -r '"\(.master.pid) master", (.nodes[] | .name as $n | .pids | to_entries[] | "\(.value) \($n)-\(.key)")'
}
# name cpu_us written_bytes switches
snapshot() {
	local pid name
	while read -r pid name; do
		echo "$name $(cat "/proc/$pid"/task/*/schedstat | awk '{s += $1} END {printf "%d", s / 1000}')" \
			"$(awk '/^write_bytes/ {print $2}' "/proc/$pid/io")" \
			"$(cat "/proc/$pid"/task/*/status | awk '/ctxt_switches/ {s += $2} END {print s}')"
	done < <(processes)
}
sleep 6 # the last heartbeats of what was done
before=$(snapshot)
sleep "$seconds"
join <(sort <<<"$before") <(snapshot | sort) | awk -v s="$seconds" '
	{ cpu = $5 - $2; written = $6 - $3; switches = $7 - $4; printf "%-16s %8d us CPU  %6d bytes written  %5d wake-ups\n", $1, cpu, written, switches
	  all += cpu; bytes += written; wakes += switches }
	END { printf "%-16s %8d us CPU  %6d bytes written  %5d wake-ups in %d s: %.2f %% of one core\n", "all", all, bytes, wakes, s, all / s / 10000 }'
