# Ends what its owner leaves behind, however the owner ends.
#
# Standard input is a pipe from the process that uses this one. It sends lines: `+ PID` puts a process group
# under watch, `- PID` takes it off, `d FOLDER` names a folder to remove. The kernel closes the pipe when that
# process is gone, also by kill -9. $1 is a process to wait for after that, or empty.

trap '' INT TERM HUP QUIT
owner=$1
shift $#

# Start time of process $1 in clock ticks since boot, or nothing when it is gone (a zombie counts as gone).
# Process id and start time together are never used twice.
started() {
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    # The fields after the name, which may itself hold blanks and brackets: state first, start time 20th.
    set -- ${stat##*) }
    [ "$1" = Z ] || echo "${20}"
}

owner_started=$([ -z "$owner" ] || started "$owner")
watched=
while read -r verb what; do
    case $verb in
    +) watched="$watched $what:$(started "$what")" ;;
    -)
        left=
        for entry in $watched; do
            [ "${entry%%:*}" = "$what" ] || left="$left $entry"
        done
        watched=$left
        ;;
    d) set -- "$@" "$what" ;;
    esac
done

if [ -n "$owner" ]; then
    while [ -n "$owner_started" ] && [ "$(started "$owner")" = "$owner_started" ]; do
        sleep 1
    done
fi

for entry in $watched; do
    pid=${entry%%:*}
    [ "$(started "$pid")" = "${entry#*:}" ] && kill -s KILL -- "-$pid" 2>/dev/null
done
# A dying broker may still add a file behind our back.
for try in 1 2 3 4 5; do
    rm -rf -- "$@" 2>/dev/null && break
    sleep 0.2
done
