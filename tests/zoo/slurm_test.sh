#!/bin/bash
# A real Slurm of two virtual nodes on this machine runs the nightly job of convert/workflows.md, then a zoo; one node's
# daemon and steps are killed midway.
#
#   slurm_test.sh QWEN2_ZOO [MODELS]        as root, on Debian 12; installs slurm-wlm and munge if they are not there
#
# Everything lies in a folder of its own: keys, configuration, state, logs. Exits 0 if all is well.
set -euo pipefail
cd "$(dirname "$0")/../.."
zoo="$(realpath "${1:?usage: slurm_test.sh QWEN2_ZOO [MODELS]}")"
scripts/packages.sh slurm-wlm munge
dir="$(mktemp -d /tmp/q2c-slurm-XXXXXX)"
chmod 755 "$dir"  # munge wants to know who may write here
export SLURM_CONF="$dir/slurm.conf"
pids=()
finish() {
  code=$?
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
  if [ "$code" != 0 ]; then tail -n 20 "$dir"/log.* "$dir"/work/*.log 2>/dev/null || true; fi
  rm -rf "$dir"
  exit "$code"
}
trap finish EXIT

mkdir -p "$dir/state" "$dir/spool.n1" "$dir/spool.n2" "$dir/work" "$dir/munge"
chmod 711 "$dir/munge"
dd if=/dev/urandom of="$dir/munge/key" bs=128 count=1 status=none
chmod 600 "$dir/munge/key"
host="$(hostname -s)"
cat > "$SLURM_CONF" <<END
ClusterName=q2c
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=17817
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log.slurmctld
SlurmdLogFile=$dir/log.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
SlurmdTimeout=10
SlurmctldTimeout=10
KillWait=5
ReturnToService=2
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17821 CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17822 CPUs=2 State=UNKNOWN
PartitionName=zoo Nodes=n1,n2 Default=YES MaxTime=01:00:00 State=UP
END
munged --foreground --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" --log-file="$dir/log.munge" --seed-file="$dir/munge/seed" 2>/dev/null & pids+=($!)
for _ in $(seq 100); do [ -S "$dir/munge/socket" ] && break; sleep 0.1; done
slurmctld -D >"$dir/log.ctld-out" 2>&1 & pids+=($!)
slurmd -D -N n1 >"$dir/log.n1-out" 2>&1 & pids+=($!)
slurmd -D -N n2 >"$dir/log.n2-out" 2>&1 & pids+=($!)
for _ in $(seq 300); do [ "$(sinfo -h -N -t idle 2>/dev/null | wc -l)" = 2 ] && break; sleep 0.1; done
sinfo -N
python3 tests/workflows/run.py --bin="$(dirname "$zoo")" "A zoo every night"
python3 tests/zoo/slurm_zoo.py --binary="$zoo" --folder="$dir/work" --node-daemon="${pids[3]}" --models="${2:-200}"
