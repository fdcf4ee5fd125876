# bash completion for the programs of cdmfs
# shellcheck shell=bash

# The node's sets, from its configuration.
_cdmfs_sets()
{
	sed -n 's/^[[:space:]]*\[set[[:space:]]\{1,\}\([^]]*[^][:space:]]\)[[:space:]]*\].*/\1/p' "${CDMFS_CONFIG:-/etc/cdmfs/node.conf}" 2>/dev/null
}

# words that fit, from a list
_cdmfs_words()
{
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
}

_cdmfs_files()
{
	compopt -o filenames 2>/dev/null
	mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$1")
}

_cdmfs_mount_options='ro rw dev nodev suid nosuid exec noexec nosymfollow nonempty remount context= nofail _netdev'

_cdmfs()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	case $prev in
	-o) _cdmfs_words "$_cdmfs_mount_options" "$cur" ;;
	--config) _cdmfs_files "$cur" ;;
	*)
		if [[ $cur == -* ]]; then
			_cdmfs_words '-o --config --daemon --help --version' "$cur"
		else
			_cdmfs_words "$(_cdmfs_sets)" "$cur"
			_cdmfs_files "$cur"
		fi
		;;
	esac
}

_cdmfs_stat()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	case $prev in
	--config) _cdmfs_files "$cur" ;;
	--node | --group | --timeout | --min) ;;
	*)
		if [[ $cur == -* ]]; then
			_cdmfs_words '--node --group --json --watch --wait --timeout --min --fail-fast --config --help --version' "$cur"
		else
			_cdmfs_words "$(_cdmfs_sets)" "$cur"
			_cdmfs_files "$cur"
		fi
		;;
	esac
}

_cdm_replicator()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	case $prev in
	--config) _cdmfs_files "$cur" ;;
	--token | --name) ;;
	*) _cdmfs_words 'join --token --name --config --help --version' "$cur" ;;
	esac
}

_cdm_master()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	case $prev in
	--dir | --config) _cdmfs_files "$cur" ;;
	--listen-api | --listen-agents | --advertise | --certificate-life) ;;
	*) _cdmfs_words '--dir --config --listen-api --listen-agents --advertise --certificate-life --help --version' "$cur" ;;
	esac
}

# Nouns, verbs and options are those that cdmctl itself tells in its help.
_cdmctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} noun=${COMP_WORDS[1]:-} help
	COMPREPLY=()
	case $prev in
	--dir | --ca | --token-file)
		_cdmfs_files "$cur"
		return
		;;
	--role) _cdmfs_words 'both source target' "$cur" && return ;;
	--update) _cdmfs_words 'follow strict' "$cur" && return ;;
	--open) _cdmfs_words 'rest ship' "$cur" && return ;;
	--encryption | --delta) _cdmfs_words 'on off' "$cur" && return ;;
	--compression) _cdmfs_words '0 1 2 3 4 5 6 7 8 9' "$cur" && return ;;
	--limit | --limit-at) _cdmfs_words 'none' "$cur" && return ;;
	--default-excludes) _cdmfs_words 'yes no' "$cur" && return ;;
	esac
	help=$("${COMP_WORDS[0]}" --help 2>/dev/null | sed -n 's/^  \([a-z]\)/\1/p')
	if [[ $cur == -* ]]; then
		_cdmfs_words "$(grep -oe '--[a-z-]*' <<<"$help" | sort -u) --json --dry-run --yes --dir --api --token-file --ca --help" "$cur"
	elif ((COMP_CWORD == 1)); then
		_cdmfs_words "$(awk '{print $1}' <<<"$help" | sort -u)" "$cur"
	elif ((COMP_CWORD == 2)); then
		_cdmfs_words "$(awk -v n="$noun" '$1 == n && $2 ~ /^[a-z]+$/ {print $2}' <<<"$help" | sort -u)" "$cur"
	elif ((COMP_CWORD == 3)) && [[ $noun == section ]]; then
		_cdmfs_words 'group region international' "$cur"
	fi
}

_cdmfs_lab()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	COMPREPLY=()
	case $prev in
	--dir) _cdmfs_files "$cur" ;;
	kill | start | cut | heal | slow | run) _cdmfs_words 'n1 n2 n3 n4 n5 n6 n7 n8 master' "$cur" ;;
	n[0-9]*) _cdmfs_words 'cdmfs cdmfs-holder cdmfs-watcher replicator all' "$cur" ;;
	*)
		_cdmfs_words 'up down status run kill start cut heal slow add-node --nodes --dir --netns --rate --delay --groups --regions --sources
			--journal --certificate-life --group --signal --json --purge --help' "$cur"
		;;
	esac
}

complete -F _cdmfs cdmfs mount.cdmfs
complete -F _cdmfs_stat cdmfs-stat
complete -F _cdm_replicator cdm-replicator
complete -F _cdm_master cdm-master
complete -F _cdmctl cdmctl
complete -F _cdmfs_lab lab scripts/lab
