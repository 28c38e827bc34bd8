# The same without packets, for machines that give us neither root nor namespaces: agents print what they would program.
# To be sourced after cluster.sh.

AGENT_UNDERLAY=192.0.2

tell_dry() {
    step "Three servers, three hosts whose agents only print, endpoints on three networks"
    start_servers
    start_dry_agents
    local network
    for network in "web 10.10.0.0/16" "orders 10.20.0.0/16" "database 10.30.0.0/16" "load 10.50.0.0/16"; do
        check "network ${network% *}, ${network#* }" cli network create "${network% *}" --pool "${network#* }"
    done
    check "web/web-1 on host-1" cli endpoint attach web/web-1 --host host-1
    check "web/web-2 on host-2" cli endpoint attach web/web-2 --host host-2
    check "orders/orders-1 on host-2" cli endpoint attach orders/orders-1 --host host-2
    check "database/db-1 on host-3" cli endpoint attach database/db-1 --host host-3
    dry_isolation
    dry_connect
    step "The server that leads is killed while changes go on"
    kill_the_leader load host-1
    dry_agent_dies
    audit
}

start_dry_agent() { # 1, 2 or 3
    spawn "agent-$1" - "$NETSTATE" agent --host "host-$1" --underlay "$AGENT_UNDERLAY.$1" \
        --servers "$SERVERS" --state-dir "$WORK/agent-$1" --dry-run
}

dry_hosts_connected() { [ "$(cli host ls -o json | tr -d ' ' | grep -o '"connected":true' | wc -l)" = 3 ]; }

start_dry_agents() {
    local host took
    for host in 1 2 3; do
        start_dry_agent "$host"
    done
    if took=$(until_ok "$PATIENCE" dry_hosts_connected); then
        ok "three agents follow their hosts' scopes after $took ms"
    else
        failed "three agents connect" "$LOG/agent-1.log"
        return 1
    fi
}

allowed() { # from; to
    check "$1 may reach $2" cli reach "$1" "$2"
}

denied() { # from; to
    local code=0
    cli reach "$1" "$2" > "$WORK/shown" 2>&1 || code=$?
    if [ "$code" = 1 ]; then
        ok "$1 may not reach $2"
    else
        failed "$1 may not reach $2" "netstate reach ended with $code: $(head -n 1 "$WORK/shown")"
    fi
}

dry_isolation() {
    step "Members of one network may talk to each other; members of different networks may not"
    allowed web/web-1 web/web-2
    denied web/web-1 orders/orders-1
    denied orders/orders-1 database/db-1
}

# Whether an agent has printed something about a port since a line of its log.
printed() { # agent; line; what
    awk -v before="$2" -v text="$3" 'NR > before && index($0, text) { found = 1 } END { exit !found }' "$LOG/$1.log"
}

dry_connect() {
    step "A connection opens the port that it names, and is taken away again"
    local before took connection
    show connect orders database --port tcp/5432 --reason "orders are kept there" --dry-run ||
        failed "connect --dry-run" "$WORK/shown"
    before=$(wc -l < "$LOG/agent-3.log")
    check "connect" cli connect orders database --port tcp/5432 --reason "orders are kept there"
    if took=$(WAIT_STEP=0.005 until_ok "$PATIENCE" printed agent-3 "$before" 5432); then
        ok "host-3's agent printed what it would program after $took ms:"
        awk -v before="$before" 'NR > before && /5432/ && shown++ < 3 { sub(/^ */, "       "); print substr($0, 1, 118) }' "$LOG/agent-3.log"
    else
        failed "host-3's agent prints the connection" "$LOG/agent-3.log"
    fi
    show reach orders/orders-1 database/db-1 || failed "orders-1 may reach db-1" "$WORK/shown"
    show exposure database || failed "exposure of database" "$WORK/shown"
    connection=$(cli reach orders/orders-1 database/db-1 -o json | first_connection)
    before=$(wc -l < "$LOG/agent-3.log")
    check "disconnect $connection" cli disconnect "$connection" --reason "orders moved elsewhere"
    if took=$(until_ok "$PATIENCE" printed agent-3 "$before" 'delete element'); then
        ok "host-3's agent printed its removal after $took ms"
    else
        failed "host-3's agent prints the removal" "$LOG/agent-3.log"
    fi
    denied orders/orders-1 database/db-1
}

dry_agent_dies() {
    step "An agent is killed and started again"
    kill_hard agent-2
    start_dry_agent 2
    local took
    if took=$(until_ok "$PATIENCE" dry_hosts_connected); then
        ok "host-2's agent is back after $took ms"
    else
        failed "host-2's agent comes back" "$LOG/agent-2.log"
    fi
}
