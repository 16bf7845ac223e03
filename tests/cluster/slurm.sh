#!/bin/bash
# A real SLURM on this machine alone, for tests: two nodes with two fake GPUs each, accounting, no systemd.
#
#   slurm.sh up FOLDER      install Debian's packages where they are missing, start, wait until both nodes are idle
#   slurm.sh down FOLDER    stop the daemons that `up` started, by their recorded process ids, and nothing else
#
# Everything lies in FOLDER, but for the link /run/slurm/conf: the jobstep plugin drops SLURM_CONF before it calls srun,
# which then looks there. FOLDER must be short (a socket's path has at most 107 bytes). Afterwards set
# SLURM_CONF=FOLDER/etc/slurm.conf. FOLDER/devices has a line for each task that began: job, node, CUDA_VISIBLE_DEVICES.
set -euo pipefail

(($# == 2)) && [[ $1 == up || $1 == down ]] || { sed -n '2,9s/^# \?//p' "$0" >&2; exit 1; }
box=$2
port=${SLURM_TEST_PORT:-26830} # the controller's; the next ones are the database daemon's and the nodes'
host=$(hostname -s)
nodes=(node1 node2)
export SLURM_CONF=$box/etc/slurm.conf

fail() { echo "slurm.sh: $*" >&2; exit 1; }

# running NAME COMMAND: the recorded process id of a daemon, if that process still is this daemon
running() {
  local id
  id=$(cat "$box/run/$1.pid" 2>/dev/null) && [[ $(cat "/proc/$id/comm" 2>/dev/null) == "$2" ]] && echo "$id"
}

# patiently SECONDS WHAT COMMAND…: repeat a command until it succeeds
patiently() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >"$box/log/waiting.log" 2>&1; do
    ((SECONDS < end)) || fail "$what did not start: $(tail -n 1 "$box/log/waiting.log"); logs are in $box/log"
    sleep 0.2
  done
}

nodes_idle() { [[ $(sinfo --noheader --Node --format '%N %T' | grep -c ' idle$') == "${#nodes[@]}" ]]; }
ask_database() { mariadb --no-defaults --user=root --socket="$box/run/db.sock" --execute='select 1'; }

install_packages() {
  local package missing=() policy=/usr/sbin/policy-rc.d
  for package in slurmctld slurmd slurmdbd slurm-client munge mariadb-server-core mariadb-client-core; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  # Packages start their daemons when they are installed, unless this script says that they may not.
  if [[ ! -e $policy ]]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}"; } \
    >"$box/log/apt.log" 2>&1 || fail "apt-get could not install ${missing[*]}: see $box/log/apt.log"
}

write_configuration() {
  local index name number=0
  (umask 077 && head --bytes=128 /dev/urandom >"$box/etc/munge.key")
  # A fake GPU has to be a device: for an ordinary file SLURM sets no CUDA_VISIBLE_DEVICES. 195 is NVIDIA's number.
  for index in 0 1; do mknod "$box/run/gpu$index" c 195 $index; done
  cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$box/run/munge.socket
CredType=cred/munge
SlurmctldPidFile=$box/run/slurmctld.pid
SlurmctldLogFile=$box/log/slurmctld.log
StateSaveLocation=$box/state
SlurmdPidFile=$box/run/%n.pid
SlurmdLogFile=$box/log/%n.log
SlurmdSpoolDir=$box/spool/%n
SlurmdParameters=config_overrides
MailProg=/bin/true
MpiDefault=none
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill,NoShared
KillWait=3
MinJobAge=300
EnforcePartLimits=ALL
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((port + 1))
AccountingStoragePass=$box/run/munge.socket
AccountingStorageEnforce=associations,limits
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
TaskProlog=$box/etc/record.sh
PartitionName=gpu Nodes=ALL Default=YES DefaultTime=5 MaxTime=1-0 State=UP
CONF
  for name in "${nodes[@]}"; do
    number=$((number + 1))
    echo "NodeName=$name NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1 + number)) CPUs=4 RealMemory=64000 Gres=gpu:2"
  done >>"$SLURM_CONF"
  echo "NodeName=node[1-2] Name=gpu File=$box/run/gpu[0-1]" >"$box/etc/gres.conf"
  (umask 077 && cat >"$box/etc/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$box/run/munge.socket
CommunicationParameters=NoInAddrAny
DbdHost=$host
DbdAddr=127.0.0.1
DbdPort=$((port + 1))
SlurmUser=root
PidFile=$box/run/slurmdbd.pid
LogFile=$box/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
CONF
  # Every task says which devices it was given; accounting says when it ran.
  cat >"$box/etc/record.sh" <<RECORD
#!/bin/sh
echo "\$SLURM_JOB_ID \$SLURMD_NODENAME \${CUDA_VISIBLE_DEVICES-none}" >>"$box/devices"
RECORD
  chmod +x "$box/etc/record.sh"
}

start_accounting() {
  export MYSQL_UNIX_PORT=$box/run/db.sock
  mariadb-install-db --no-defaults --datadir="$box/db" --user=root --skip-test-db --auth-root-authentication-method=socket \
    >"$box/log/database.log" 2>&1 || fail "mariadb-install-db failed: see $box/log/database.log"
  setsid mariadbd --no-defaults --user=root --datadir="$box/db" --socket="$box/run/db.sock" --skip-networking \
    --pid-file="$box/run/mariadbd.pid" --log-error="$box/log/mariadbd.log" --innodb-buffer-pool-size=64M \
    --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0 </dev/null >/dev/null 2>&1 &
  patiently 60 MariaDB ask_database
  slurmdbd
  patiently 60 slurmdbd sacctmgr --noheader list cluster
  sacctmgr --immediate add cluster test >/dev/null
  sacctmgr --immediate add account lab Description=lab Organization=lab >/dev/null
  sacctmgr --immediate add user root account=lab defaultaccount=lab >/dev/null
}

up() {
  local name
  [[ $(id --user) == 0 ]] || fail "run it as root"
  [[ -e /etc/debian_version ]] || fail "it needs Debian's packages"
  [[ ! -e /etc/slurm/slurm.conf && ! -e /run/slurm/conf ]] || fail "this machine has a SLURM already (/etc/slurm, /run/slurm)"
  mkdir -p "$box"/{etc,run,log,state,spool}
  chmod 0755 "$box" "$box/run" # munge wants its socket to be reachable
  install_packages
  write_configuration
  mkdir -p /run/slurm
  ln -s "$box/etc" /run/slurm/conf
  munged --key-file="$box/etc/munge.key" --socket="$box/run/munge.socket" --pid-file="$box/run/munged.pid" \
    --log-file="$box/log/munged.log" --seed-file="$box/run/munged.seed"
  start_accounting
  slurmctld
  patiently 30 slurmctld scontrol ping
  for name in "${nodes[@]}"; do
    mkdir -p "$box/spool/$name"
    slurmd -N "$name"
  done
  patiently 60 "nodes" nodes_idle
}

# stop NAME COMMAND SECONDS: end a daemon of ours, kindly; by force if it is late
stop() {
  local id late=$((SECONDS + $3))
  id=$(running "$1" "$2") || return 0
  kill "$id" 2>/dev/null || return 0
  while [[ -e /proc/$id/exe ]]; do # not even a zombie has one
    ((SECONDS < late)) || kill -KILL "$id" 2>/dev/null || true
    sleep 0.1
  done
}

down() {
  local name late=$((SECONDS + 20))
  if running slurmctld slurmctld >/dev/null; then # no job outlives the cluster
    scancel --user=root || true
    while [[ -n $(squeue --noheader 2>/dev/null) ]] && ((SECONDS < late)); do sleep 0.3; done
  fi
  for name in "${nodes[@]}"; do stop "$name" slurmd 20; done
  stop slurmctld slurmctld 30
  stop slurmdbd slurmdbd 30
  stop mariadbd mariadbd 30
  stop munged munged 10
  if [[ $(readlink /run/slurm/conf) == "$box/etc" ]]; then
    rm /run/slurm/conf
    rmdir --ignore-fail-on-non-empty /run/slurm
  fi
}

"$1"
