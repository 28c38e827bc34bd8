# Hosts and containers as network namespaces, on a bridge in a namespace of its own. To be sourced after lib.sh.
#
#   PREFIX-wire: bridge0 ──┬── PREFIX-servers   192.168.251.11, .12, .13
#                          ├── PREFIX-host-1    192.168.251.1    its agent, containers' veths
#                          ├── PREFIX-host-2    192.168.251.2
#                          └── PREFIX-host-3    192.168.251.3
#
# The root namespace's addresses, routes and firewall are never touched: nothing leads from here to there.

netns() { echo "$PREFIX-$1"; }
on() { local where=$1; shift; nsenter "--net=/run/netns/$(netns "$where")" "$@"; }

# Whether this machine lets us; says why not.
packets_possible() {
    local probe="$PREFIX-try" problem=
    [ "$(id -u)" = 0 ] || { echo "you are not root"; return 1; }
    for program in ip nft conntrack nsenter; do
        command -v "$program" > /dev/null || { echo "$program is not installed"; return 1; }
    done
    ip netns add "$probe" 2> "$WORK/probe" || { echo "no network namespaces: $(cat "$WORK/probe")"; return 1; }
    nsenter "--net=/run/netns/$probe" nft add table inet probe 2> "$WORK/probe" || problem="nftables can't be used"
    ip -n "$probe" link add probe0 type veth peer name probe1 2>> "$WORK/probe" || problem="no veth interfaces"
    ip -n "$probe" link add probe2 type bridge 2>> "$WORK/probe" || problem="no bridges"
    ip netns del "$probe"
    [ -z "$problem" ] || { echo "$problem: $(head -n 1 "$WORK/probe")"; return 1; }
}

make_netns() { # name without prefix
    ip netns add "$(netns "$1")"
    ip -n "$(netns "$1")" link set lo up
}

# Joins a namespace to the underlay.
join_underlay() { # name; port on the bridge; addresses…
    local where port=$2 address
    where=$(netns "$1")
    shift 2
    ip -n "$(netns wire)" link add "$port" type veth peer name u0 netns "$where"
    ip -n "$(netns wire)" link set "$port" master bridge0 up
    for address in "$@"; do
        ip -n "$where" addr add "$address/24" dev u0
    done
    ip -n "$where" link set u0 up
}

make_underlay() {
    local host
    make_netns wire
    ip -n "$(netns wire)" link add bridge0 type bridge
    ip -n "$(netns wire)" link set bridge0 up
    make_netns servers
    join_underlay servers ps "${SERVER_ADDRESSES[@]}"
    for host in 1 2 3; do
        make_netns "host-$host"
        join_underlay "host-$host" "p$host" "$UNDERLAY.$host"
    done
}

start_agent() { # 1, 2 or 3
    spawn "agent-$1" "$(netns "host-$1")" "$NETSTATE" agent --host "host-$1" --underlay "$UNDERLAY.$1" \
        --servers "$SERVERS" --state-dir "$WORK/agent-$1"
}

hosts_connected() { [ "$(cli host ls -o json | tr -d ' ' | grep -o '"connected":true' | wc -l)" = 3 ]; }

start_agents() {
    local host took
    for host in 1 2 3; do
        start_agent "$host"
    done
    if took=$(until_ok "$PATIENCE" hosts_connected); then
        ok "three agents follow their hosts' scopes after $took ms"
    else
        failed "three agents connect" "$LOG/agent-1.log; netstate host ls"
        return 1
    fi
}

# A container: a namespace, an endpoint, and the interface that the host's agent makes for it.
container() { # network; name; host
    local took begun
    make_netns "$2"
    begun=$(now)
    cli endpoint attach "$1/$2" --host "host-$3" --netns "$(netns "$2")" -o json > "$WORK/attached"
    ADDRESS[$2]=$(field addresses < "$WORK/attached")
    [ -n "${ADDRESS[$2]}" ] || { failed "$1/$2 gets an address" "$WORK/attached"; return 1; }
    until_ok "$PATIENCE" has_address "$2" > /dev/null || { failed "$1/$2 gets its interface" "$LOG/agent-$3.log"; return 1; }
    took=$(since "$begun")
    ok "$(printf '%-18s on host-%s has %-14s after %s ms' "$1/$2" "$3" "${ADDRESS[$2]}" "$took")"
}

has_address() { ip -n "$(netns "$1")" addr show dev eth0 | grep -qF " ${ADDRESS[$1]}/"; }

# Something that answers on a port of a container, whatever its address.
listen() { # container; port
    local any=0.0.0.0
    [[ ${ADDRESS[$1]} != *:* ]] || any='[::]'
    spawn "listen-$1-$2" "$(netns "$1")" "$NETSTATE" probe listen --address "$any:$2"
    until_ok "$PATIENCE" on "$1" "$NETSTATE" probe connect "$(at_loopback "$1" "$2")" --timeout 200ms > /dev/null ||
        failed "a probe listens in $1 on $2" "$LOG/listen-$1-$2.log"
}

at_loopback() { [[ ${ADDRESS[$1]} == *:* ]] && echo "[::1]:$2" || echo "127.0.0.1:$2"; }

target() { [[ ${ADDRESS[$1]} == *:* ]] && echo "[${ADDRESS[$1]}]:$2" || echo "${ADDRESS[$1]}:$2"; }

# One TCP connection, one echo. Prints milliseconds.
probe() { # from; to; port; timeout
    on "$1" "$NETSTATE" probe connect "$(target "$2" "$3")" --timeout "${4:-1s}"
}

passes() { # from; to; port
    local took
    if took=$(probe "$1" "$2" "$3" 2> "$WORK/probed"); then
        ok "$1 → $2 on tcp/$3 passes: $took"
    else
        failed "$1 → $2 on tcp/$3 passes" "netstate reach; ip netns exec $(netns "$1") ip route; $LOG/agent-*.log"
    fi
}

drops() { # from; to; port
    if probe "$1" "$2" "$3" "$DROP_PATIENCE" > /dev/null 2>&1; then
        failed "$1 → $2 on tcp/$3 is dropped: it passed" "netstate reach; nft list table inet netstate on the hosts"
    else
        ok "$1 → $2 on tcp/$3 is dropped: no answer in $DROP_PATIENCE"
    fi
}

# A TCP flow that talks until it is cut or ended. Each line that it prints gets the time.
start_stream() { # name; from; to; port
    local lines=$LOG/flow-$1.log
    : > "$lines"
    DEMO_RUN=$PREFIX setsid nsenter "--net=/run/netns/$(netns "$2")" \
        "$NETSTATE" probe stream "$(target "$3" "$4")" --interval 20ms --for 300s --patience 1s < /dev/null 3>&- 2>&1 \
        > >(while read -r line; do echo "$((${EPOCHREALTIME/./} / 1000)) $line"; done >> "$lines" 3>&-) &
    remember "flow-$1" "$!"
    until_ok "$PATIENCE" grep -q ' ok ' "$lines" > /dev/null || failed "a flow runs from $2 to $3" "$lines"
}

was_cut() { grep -q ' cut' "$LOG/flow-$1.log"; }

# When the flow last had an answer, in milliseconds.
last_answer() { awk '$2 == "ok" { at = $1 } END { print at }' "$LOG/flow-$1.log"; }

# The longest time between two answers, in milliseconds.
longest_silence() {
    awk '$2 == "ok" { if (last && $1 - last > gap) gap = $1 - last; last = $1 } END { print gap + 0 }' "$LOG/flow-$1.log"
}

# Ends a flow, which must not have been interrupted before.
flowed_on() { # name; when
    local gap
    gap=$(longest_silence "$1")
    if alive "flow-$1" && ! was_cut "$1" && [ "$gap" -le "$FLOW_GAP_MAX" ]; then
        ok "the flow went on $2: $(grep -c ' ok ' "$LOG/flow-$1.log") answers, $gap ms the longest time between two"
    else
        failed "the flow went on $2" "$LOG/flow-$1.log: $(tail -n 1 "$LOG/flow-$1.log"); $gap ms without an answer"
    fi
    kill_hard "flow-$1"
}

remove_namespaces() { # prefix
    local name
    command -v ip > /dev/null || return 0
    for name in $(ip netns list 2> /dev/null | awk '{ print $1 }' | grep "^$1-" || true); do
        ip netns del "$name" || true
    done
}
