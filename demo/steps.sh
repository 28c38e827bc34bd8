# What the demo shows with packets, step by step. To be sourced after world.sh and cluster.sh.

declare -A ADDRESS=()

tell_packets() {
    set_up
    same_network
    different_networks
    connect_one_port
    who_reaches_the_database
    disconnect_cuts
    a_server_dies
    an_agent_dies
    audit
}

set_up() {
    step "Three servers, three hosts, containers on four networks"
    make_underlay
    start_servers
    start_agents
    check "network web, 10.10.0.0/16" cli network create web --pool 10.10.0.0/16
    check "network orders, 10.20.0.0/16" cli network create orders --pool 10.20.0.0/16
    check "network database, 10.30.0.0/16" cli network create database --pool 10.30.0.0/16
    check "network metrics, fd00:40::/64" cli network create metrics --pool fd00:40::/64
    container web web-1 1
    container web web-2 2
    container orders orders-1 2
    container database db-1 3
    container metrics probe-1 3
    container metrics probe-2 3
    listen web-2 8080
    listen orders-1 8080
    listen db-1 5432
    listen db-1 5433
    listen probe-2 9090
}

same_network() {
    step "Members of one network talk to each other, on whatever hosts they are"
    passes web-1 web-2 8080
    passes probe-1 probe-2 9090
}

different_networks() {
    step "Members of different networks don't"
    drops web-1 orders-1 8080
    drops orders-1 db-1 5432
    drops web-1 db-1 5432
}

# Makes a connection; leaves its id in CONNECTION and the moment of the acknowledgement in ACKNOWLEDGED.
connect() { # from; to; port; reason
    if ! cli connect "$1" "$2" --port "$3" --reason "$4" -o json > "$WORK/connected" 2> "$WORK/refused"; then
        failed "connect $1 $2 --port $3" "$(head -n 3 "$WORK/refused" | tr '\n' ' ')"
        return 1
    fi
    ACKNOWLEDGED=$(now)
    CONNECTION=$(first_connection < "$WORK/connected")
}

in_force() { # connection
    if cli wait --connection "$1" > "$WORK/waited" 2>&1 && ! grep -q 'no host' "$WORK/waited"; then
        ok "$1 is $(sed -n '$s/ after .*//p' "$WORK/waited"), at most $(since "$ACKNOWLEDGED") ms after it was acknowledged"
    else
        failed "$1 is in force on the hosts concerned" "netstate wait --connection $1: $(tail -n 1 "$WORK/waited")"
    fi
}

# A host that has programmed the removal is no longer concerned, so that the answer may name none.
revoked() { # connection
    if cli wait --connection "$1" > "$WORK/waited" 2>&1; then
        ok "no host allows $1 any more, at most $(since "$ACKNOWLEDGED") ms after its removal was acknowledged"
    else
        failed "every host has programmed the removal of $1" "netstate wait --connection $1: $(tail -n 1 "$WORK/waited")"
    fi
}

connect_one_port() {
    step "A connection opens the port that it names, in the direction that it names, and nothing else"
    show connect orders database --port tcp/5432 --reason "orders are kept there" --dry-run ||
        failed "connect --dry-run" "$WORK/shown"
    drops orders-1 db-1 5432
    connect orders database tcp/5432 "orders are kept there"
    local took
    if took=$(WAIT_STEP=0.005 until_ok "$PATIENCE" probe orders-1 db-1 5432 50ms); then
        ok "orders → database on tcp/5432: first packet through $took ms after the acknowledgement of $CONNECTION"
    else
        failed "orders → database on tcp/5432 opens" "netstate wait --connection $CONNECTION; $LOG/agent-*.log"
    fi
    in_force "$CONNECTION"
    drops orders-1 db-1 5433
    drops web-1 db-1 5432
    drops db-1 orders-1 8080
    TO_DATABASE=$CONNECTION
}

says() { grep -q -- "$1" "$WORK/shown"; }

who_reaches_the_database() {
    step "Who can reach the database, and why"
    show reach orders/orders-1 database/db-1 || failed "orders-1 may reach db-1" "$WORK/shown"
    check "the answer names $TO_DATABASE and its reason" eval 'says "$TO_DATABASE" && says "orders are kept there"'
    if show reach web/web-1 database/db-1; then
        failed "web-1 may not reach db-1" "$WORK/shown"
    else
        ok "denied, and the exit code says so"
    fi
    show exposure database || failed "exposure of database" "$WORK/shown"
    check "orders is listed, web is not" eval 'says orders && not says web'
}

disconnect_cuts() {
    step "Taking the connection away cuts a flow that runs over it"
    local last
    start_stream paid orders-1 db-1 5432
    note "a TCP flow from orders-1 to db-1 is under way"
    check "disconnect $TO_DATABASE" cli disconnect "$TO_DATABASE" --reason "orders moved elsewhere"
    ACKNOWLEDGED=$(now)
    revoked "$TO_DATABASE"
    if until_ok "$PATIENCE" was_cut paid > /dev/null; then
        last=$(last_answer paid)
        ok "the flow is cut: its last answer came $((last - ACKNOWLEDGED)) ms after the acknowledgement (negative: before)"
    else
        failed "the flow is cut" "$LOG/flow-paid.log; conntrack -L in $(netns host-3); $LOG/agent-3.log"
    fi
    drops orders-1 db-1 5432
}

a_server_dies() {
    step "The server that leads is killed while traffic and changes go on"
    connect web orders tcp/8080 "the shop takes orders"
    in_force "$CONNECTION"
    check "network load, for endpoints that come and come" cli network create load --pool 10.50.0.0/16
    start_stream shop web-1 orders-1 8080
    kill_the_leader load host-1
    flowed_on shop "all the time"
    passes web-1 web-2 8080
    drops web-1 db-1 5432
}

an_agent_dies() {
    step "An agent is killed: what it enforced stays in force"
    start_stream steady web-1 orders-1 8080
    kill_hard agent-2
    note "killed the agent of host-2, where orders-1 is, with kill -9"
    passes web-1 orders-1 8080
    drops orders-1 db-1 5432
    connect orders database tcp/5432 "orders are kept there again"
    if cli wait --connection "$CONNECTION" --timeout 1s > "$WORK/waited" 2>&1; then
        failed "netstate wait tells that host-2 lags" "$WORK/waited"
    else
        ok "a change made meanwhile is not reported in force: host-2 lags"
    fi
    drops orders-1 db-1 5432
    local begun
    begun=$(now)
    start_agent 2
    if cli wait --connection "$CONNECTION" > "$WORK/waited" 2>&1; then
        ok "the agent, started again, had it in force after $(since "$begun") ms"
    else
        failed "host-2 catches up" "$LOG/agent-2.log; netstate wait --connection $CONNECTION"
    fi
    passes orders-1 db-1 5432
    flowed_on steady "without its agent, and through its return"
}
