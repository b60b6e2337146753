#!/usr/bin/env bash
# Checks and tests the Go program of the test cluster, with the flags that its build has, so that what is compiled is shared.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../tests/cluster/fixture"
PATH="$PATH:/usr/local/go/bin"
export GOTOOLCHAIN=local GOFLAGS=-trimpath CGO_ENABLED=0
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "gofmt would change $unformatted" && exit 1; }
nice -n 10 go vet ./...
nice -n 10 go test -ldflags='-s -w' ./...
