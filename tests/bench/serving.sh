#!/usr/bin/env bash
# serving.sh DIR NATIVE [seconds] — requests per second of nginx in its default configuration (a file open per request) and with
# open_file_cache, from DIR (a mount) and from NATIVE (a directory on the store's own filesystem), in turns; prints medians of
# three and ratios. Needs nginx and wrk. 1,000 files of 10 KiB and 20 of 1 MiB are made in both.
set -euo pipefail
dir=${1:?usage: serving.sh DIR NATIVE [seconds]} native=${2:?} seconds=${3:-4}
work=$(mktemp -d)
trap '[ -s "$work/pid" ] && kill "$(cat "$work/pid")" 2>/dev/null; rm -rf "$work" "$dir/serving-bench" "$native/serving-bench"' EXIT
chmod 755 "$work"

for d in "$dir" "$native"; do
	mkdir -p "$d/serving-bench/small" "$d/serving-bench/large"
	for i in $(seq 0 999); do head -c 10240 /dev/urandom >"$d/serving-bench/small/$i.html"; done
	for i in $(seq 0 19); do head -c 1048576 /dev/urandom >"$d/serving-bench/large/$i.bin"; done
done

port=$((20000 + RANDOM % 10000))
server() { # port root cache
	cat <<-END
		server { listen 127.0.0.1:$1; root $2/serving-bench; access_log off; $3 }
	END
}
cache='open_file_cache max=10000 inactive=60s; open_file_cache_valid 60s;'
cat >"$work/nginx.conf" <<END
user www-data; worker_processes 1; pid $work/pid; error_log $work/error.log;
events { worker_connections 512; }
http {
sendfile on; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s;
$(server $port "$dir" "")
$(server $((port + 1)) "$native" "")
$(server $((port + 2)) "$dir" "$cache")
$(server $((port + 3)) "$native" "$cache")
}
END
cat >"$work/pick.lua" <<'END'
local n, kind, ending = 0, os.getenv("KIND"), os.getenv("ENDING")
local count = tonumber(os.getenv("COUNT"))
request = function()
  n = (n * 1103515245 + 12345) % 2147483648
  return wrk.format("GET", "/" .. kind .. "/" .. (math.floor(n / 65536) % count) .. ending)
end
done = function(summary, latency, requests)
  io.write(string.format("RATE %.1f ERRORS %d\n", summary.requests / summary.duration * 1e6, summary.errors.status + summary.errors.read))
end
END
nginx -c "$work/nginx.conf" 2>/dev/null

rate() { wrk -t1 -c16 -d"${seconds}s" -s "$work/pick.lua" "http://127.0.0.1:$1" | awk '/^RATE/ {if ($4 > 0) print "errors:", $4 > "/dev/stderr"; print $2}'; }
median() { sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'; }
compare() { # title port-of-mount port-of-native
	local mount_rates="" native_rates="" m n
	rate "$2" >/dev/null; rate "$3" >/dev/null
	for _ in 1 2 3; do
		mount_rates+="$(rate "$2")"$'\n'
		native_rates+="$(rate "$3")"$'\n'
	done
	m=$(printf %s "$mount_rates" | median) n=$(printf %s "$native_rates" | median)
	awk -v t="$1" -v m="$m" -v n="$n" 'BEGIN {printf "%-34s mount %9.0f/s  native %9.0f/s  ratio %.2f\n", t, m, n, m / n}'
}
export KIND=small ENDING=.html COUNT=1000
compare "10 KiB, default configuration" $port $((port + 1))
compare "10 KiB, open_file_cache" $((port + 2)) $((port + 3))
export KIND=large ENDING=.bin COUNT=20
compare "1 MiB, default configuration" $port $((port + 1))
