# Small tools of the demo: telling, measuring, waiting, processes that end with it, and reading what `netstate` prints.
# To be sourced. Expects WORK (a folder of this run), LOG (a folder in it) and NETSTATE (the binary).

declare -A PIDS=()
declare -i STEP=0 FAILURES=0
GREEN='' RED='' PLAIN=''
[ ! -t 1 ] || GREEN=$'\e[32m' RED=$'\e[31m' PLAIN=$'\e[0m'

# --- telling

say() { printf '%s\n' "$*"; }
step() { STEP+=1; printf '\n%d. %s\n' "$STEP" "$*"; }
note() { printf '     %s\n' "$*"; }
ok() { printf '  %sok%s      %s\n' "$GREEN" "$PLAIN" "$*"; }
failed() { # what; what to look at
    FAILURES+=1
    printf '  %sFAILED%s  %s\n' "$RED" "$PLAIN" "$1"
    [ -z "${2:-}" ] || printf '          look at: %s\n' "$2"
}

# Shows a command and what it prints, indented. Its exit code is the command's.
show() {
    local code=0
    printf '     $ netstate %s\n' "$(quoted "$@")"
    cli "$@" > "$WORK/shown" 2>&1 || code=$?
    sed 's/^/       /' "$WORK/shown"
    return "$code"
}

quoted() {
    local word text=
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./:,=-]*) word="'$word'" ;; esac
        text+="${text:+ }$word"
    done
    printf '%s' "$text"
}

# ok or FAILED, by the exit code of a command whose output nobody needs unless it fails.
check() { # what; command…
    local what=$1 code=0
    shift
    "$@" > "$WORK/checked" 2>&1 || code=$?
    if [ "$code" = 0 ]; then
        ok "$what"
    else
        failed "$what" "\`$(quoted "$@")\` ended with $code: $(tail -n 3 "$WORK/checked" | tr '\n' ' ')"
    fi
}

not() { if "$@"; then return 1; fi; }

# --- measuring and waiting

# Milliseconds on a clock; only differences mean something.
now() {
    local micros=${EPOCHREALTIME/./}
    echo $((micros / 1000))
}

since() { echo $(($(now) - $1)); }

# Repeats a command until it succeeds. Prints how many milliseconds that took.
until_ok() { # milliseconds at most; command…
    local patience=$1 start
    start=$(now)
    shift
    until "$@" > "$WORK/waited" 2>&1; do
        [ "$(since "$start")" -lt "$patience" ] || return 1
        sleep "$WAIT_STEP"
    done
    since "$start"
}

# The largest number on standard input.
largest() { sort -n | tail -n 1; }

# --- processes

# Starts a process that ends with the demo; KEEP=1 keeps it. What it says goes to $LOG/NAME.log.
spawn() { # name; namespace or "-"; command…
    local name=$1 netns=$2 enter=()
    shift 2
    [ "$netns" = - ] || enter=(nsenter "--net=/run/netns/$netns")
    # A session of its own: Ctrl-C is the demo's to answer, and with KEEP=1 it outlives the terminal.
    DEMO_RUN=$PREFIX setsid "${enter[@]}" "$@" < /dev/null >> "$LOG/$name.log" 2>&1 3>&- &
    remember "$name" "$!"
}

remember() { # name; process
    PIDS[$1]=$2
    echo "$2 $1" >> "$WORK/pids"
    # Not a job of this shell, which would report its end.
    disown "$2"
}

alive() { kill -0 "${PIDS[$1]}" 2> /dev/null; }

# Ends a process with SIGKILL, and returns when it is gone.
kill_hard() { # name
    local pid=${PIDS[$1]}
    kill -9 "$pid" 2> /dev/null || true
    until_ok 5000 not kill -0 "$pid" > /dev/null || say "process $pid ($1) does not go away"
}

# Ends every process of a run that is still its own: a number may have been given to somebody else since.
end_processes() { # folder of the run; its prefix
    local pid name own=()
    [ -f "$1/pids" ] || return 0
    while read -r pid name; do
        if grep -qsz "^DEMO_RUN=$2\$" "/proc/$pid/environ"; then
            own+=("$pid")
            kill -TERM "$pid" 2> /dev/null || true
        fi
    done < "$1/pids"
    for pid in "${own[@]}"; do
        for _ in {1..50}; do
            kill -0 "$pid" 2> /dev/null || break
            sleep 0.1
        done
        kill -9 "$pid" 2> /dev/null || true
    done
}

# --- asking servers

# The value of a field that occurs once, or its first, in JSON on standard input. An array gives its first element.
field() { # name
    tr -d '\n' | sed -E 's/("[^"]*")[[:space:]]*:[[:space:]]*/\1:/g' |
        grep -oE "\"$1\":(\[[[:space:]]*)?(\"[^\"]*\"|[^][,{}\" ]+)" | sed -n 1p |
        sed -E "s/^\"$1\"://; s/^\[[[:space:]]*//; s/^\"//; s/\"\$//"
}

# The first connection's id in JSON on standard input.
first_connection() { grep -oE '"id": *"c[0-9]+"' | grep -oE 'c[0-9]+' | sed -n 1p; }

# `netstate` as an operator of this cluster runs it. Never waits for ever.
cli() {
    NETSTATE_SERVERS="${CLI_SERVERS:-$SERVERS}" NETSTATE_ACTOR=demo timeout "$CLI_LIMIT" "${CLI_ENTER[@]}" "$NETSTATE" "$@"
}

# Status line of an HTTP request, without curl: it is not on every machine.
http_ok() { # address; port; path
    timeout 2 "${CLI_ENTER[@]}" bash -c \
        'exec 3<>"/dev/tcp/$0/$1" && printf "GET %s HTTP/1.0\r\nHost: demo\r\n\r\n" "$2" >&3 && read -r line <&3 && [[ $line == *" 200 "* ]]' \
        "$1" "$2" "$3" 2> /dev/null
}

# The name of the server that leads the directory: n1, n2 or n3.
leader() {
    local name
    name=$(cli cluster status -o json 2> /dev/null | tr -d ' \n' | grep -oE '"group":0,[^{}]*' | field leader)
    [ -n "$name" ] && echo "$name"
}
