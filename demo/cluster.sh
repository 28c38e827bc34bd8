# Three servers, the same with and without namespaces, and the step that kills one of them. To be sourced after lib.sh.
# Expects SERVER_NETNS ("-" without namespaces) and SERVER_ADDRESSES.

CLIENT_PORT=2379 PEER_PORT=2380 HTTP_PORT=2381

server_address() { echo "${SERVER_ADDRESSES[${1#n} - 1]}"; }
server_ready() { http_ok "$(server_address "$1")" "$HTTP_PORT" /readyz; }
servers_ready() { server_ready n1 && server_ready n2 && server_ready n3; }
server_client() { echo "$(server_address "$1"):$CLIENT_PORT"; }

start_server() { # n1, n2 or n3
    local address founders=() name
    address=$(server_address "$1")
    for name in n1 n2 n3; do
        founders+=("$name=$(server_address "$name"):$PEER_PORT")
    done
    spawn "$1" "$SERVER_NETNS" "$NETSTATE" server --name "$1" --data-dir "$WORK/$1" \
        --listen-client "$address:$CLIENT_PORT" --listen-peer "$address:$PEER_PORT" \
        --listen-http "$address:$HTTP_PORT" --initial-cluster "$(IFS=,; echo "${founders[*]}")"
}

start_servers() {
    local name took
    SERVERS=$(server_client n1),$(server_client n2),$(server_client n3)
    for name in n1 n2 n3; do
        start_server "$name"
    done
    if took=$(until_ok "$PATIENCE" servers_ready) && until_ok "$PATIENCE" leader > /dev/null; then
        ok "three servers founded a cluster in $took ms"
    else
        failed "three servers found a cluster" "$LOG/n1.log, n2.log, n3.log; $(tail -n 2 "$LOG/n1.log" | tr '\n' ' ')"
        return 1
    fi
}

# Attaches endpoints one by one, each by a command of its own, until the file `stop` is there. `acknowledged` gets a line
# for each that was: time, name. One that ended without an answer goes to `unknown`: it may be there or not.
attach_on_and_on() { # network; host
    local n=0 name
    while [ ! -e "$WORK/stop" ]; do
        n=$((n + 1)) name=load-$n
        if cli endpoint attach "$1/$name" --host "$2" > /dev/null 2>> "$LOG/attach.log"; then
            echo "$(now) $name" >> "$WORK/acknowledged"
        else
            echo "$(now) $name" >> "$WORK/unknown"
        fi
    done
}

acknowledged_more_than() { [ "$(wc -l < "$WORK/acknowledged")" -gt "$1" ]; }

wait_for_acknowledged() { # how many more
    local have
    have=$(wc -l < "$WORK/acknowledged")
    until_ok "$PATIENCE" acknowledged_more_than "$((have + $1))" > /dev/null
}

# Milliseconds of the longest wait between two acknowledgements.
longest_gap() { awk 'NR > 1 && $1 - last > gap { gap = $1 - last } { last = $1 } END { print gap + 0 }' "$WORK/acknowledged"; }

# Whether a server lists every acknowledged endpoint exactly once, and no address twice.
all_there_once() { # server; network
    CLI_SERVERS=$(server_client "$1") cli endpoint ls --network "$2" -o json > "$WORK/listed.json" || return 1
    names_in "$WORK/listed.json" | sort > "$WORK/listed"
    cut -d ' ' -f 2 "$WORK/acknowledged" | sort > "$WORK/expected"
    comm -23 "$WORK/expected" "$WORK/listed" | sed 's/^/lost: /' | tee "$WORK/lost"
    uniq -d "$WORK/listed" | sed 's/^/twice: /' | tee "$WORK/twice"
    addresses_in "$WORK/listed.json" | sort | uniq -d | sed 's/^/address given twice: /' | tee "$WORK/shared"
    [ ! -s "$WORK/lost" ] && [ ! -s "$WORK/twice" ] && [ ! -s "$WORK/shared" ]
}

names_in() { grep -oE '"name": *"load-[0-9]+"' "$1" | grep -oE 'load-[0-9]+'; }
addresses_in() { tr -d ' \n' < "$1" | grep -oE '"addresses":\[[^]]*\]' | grep -oE '"[0-9a-f.:]+"'; }

another_leads() { [ "$(leader)" != "$1" ]; }

kill_the_leader() { # network; host for what is attached meanwhile
    local victim took attaching name killed
    : > "$WORK/acknowledged"; : > "$WORK/unknown"
    rm -f "$WORK/stop"
    attach_on_and_on "$1" "$2" & attaching=$!
    wait_for_acknowledged 20 || { failed "endpoints are attached one after another" "$LOG/attach.log"; }
    victim=$(leader)
    kill_hard "$victim"
    killed=$(now)
    note "killed $victim, which led the directory, with kill -9, while endpoints were being attached"
    if cli network create meanwhile --pool 10.60.0.0/16 > "$WORK/checked" 2>&1; then
        ok "a network was made and acknowledged $(since "$killed") ms after the kill"
    else
        failed "a network is made without $victim" "$(tail -n 1 "$WORK/checked")"
    fi
    if wait_for_acknowledged 30; then
        ok "attaching went on; nothing was acknowledged for $(longest_gap) ms at the longest"
    else
        failed "attaching goes on without $victim" "$LOG/attach.log"
    fi
    if until_ok "$PATIENCE" another_leads "$victim" > /dev/null; then
        ok "$(leader) leads the directory now"
    else
        failed "another server leads" "netstate cluster status; $LOG/n*.log"
    fi
    start_server "$victim"
    if took=$(until_ok "$PATIENCE" server_ready "$victim"); then
        ok "$victim, started again, was ready after $took ms"
    else
        failed "$victim gets ready again" "$LOG/$victim.log"
    fi
    touch "$WORK/stop"
    wait "$attaching" || true
    for name in n1 n2 n3; do
        check "$name has each of the $(wc -l < "$WORK/acknowledged") acknowledged endpoints exactly once" \
            all_there_once "$name" "$1"
    done
    [ ! -s "$WORK/unknown" ] || note "$(wc -l < "$WORK/unknown") ended without an answer; they may be there or not"
}

audit() {
    step "The trail: who did what and why, and proof that nobody rewrote it"
    show audit log || failed "audit log" "$WORK/shown"
    local begun
    begun=$(now)
    if show audit verify; then
        ok "chains verified on every replica in $(since "$begun") ms; heads agree"
    else
        failed "the audit chains verify" "$WORK/shown"
    fi
}
