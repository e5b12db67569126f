#!/bin/bash
# Runs the stages of `make test`: each is timed, its tests are counted, and the end adds up.
#
#     stage.sh start | run NAME COMMAND... | finish
#
# A failing stage ends the run at once with the table of what ran before it.
set -euo pipefail

ledger=${KVD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvd}/last-test
mkdir -p "$ledger"

# Sums `N <word>` over the summary lines of cargo test and pytest in a log.
counted() {
    grep -hE '^test result: |^=+ .*(passed|failed|skipped|error).* in [0-9.]+s' "$2" 2>/dev/null |
        grep -oE "[0-9]+ $1" | awk '{ sum += $1 } END { print sum + 0 }'
}

start() {
    rm -f "$ledger"/*
    date +%s >"$ledger/begin"
    if [ -d "${CARGO_TARGET_DIR:-/nowhere}/release" ]; then
        echo "state: warm, builds are in $CARGO_TARGET_DIR"
    else
        echo "state: cold, everything will be built"
    fi
}

run() {
    local name=$1 begin status=0 seconds
    shift
    echo
    echo "== $name: $*"
    begin=$(date +%s)
    "$@" </dev/null 2>&1 | tee "$ledger/$name.log" || status=$?
    seconds=$(($(date +%s) - begin))
    printf '%-10s %6d s  %5d passed  %3d failed  %3d skipped\n' "$name" "$seconds" \
        "$(counted passed "$ledger/$name.log")" \
        "$(counted '(failed|error)' "$ledger/$name.log")" \
        "$(counted '(skipped|ignored)' "$ledger/$name.log")" >>"$ledger/table"
    [ $status = 0 ] && return
    echo
    echo "FAILED in $name (exit status $status)"
    total
    exit $status
}

total() {
    echo
    cat "$ledger/table"
    awk -v wall=$(($(date +%s) - $(cat "$ledger/begin"))) \
        '{ passed += $4; failed += $6; skipped += $8 }
         END { printf "%-10s %6d s  %5d passed  %3d failed  %3d skipped\n", "total", wall, passed, failed, skipped }' "$ledger/table"
}

finish() {
    total
    echo "all stages held"
}

"$@"
