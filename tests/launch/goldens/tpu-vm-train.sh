gcloud compute tpus tpu-vm create vitl8 \
  --zone=us-east5-a \
  --accelerator-type=v6e-256 \
  --version=v2-alpha-tpuv6e \
  --metadata-from-file=startup-script=/dev/stdin <<'END_OF_DOCUMENT'
#!/usr/bin/env bash
image=us-docker.pkg.dev/lab/mae-jax/tpu
options=(--volume=/share:/share --env=MAE_JAX_CACHE=/tmp/cache)
command=(
  train
  --config configs/demo.py
  --config.data.index=/share/index.parquet
  --workdir /share/runs/vitl8
  --distributed
  --preempted-exit-code 75
)
mounts=(10.0.0.2:/vol:/share)
delete=(gcloud compute tpus tpu-vm delete vitl8 --quiet)
max_restarts=50
stop_file=/run/mae-jax.stop
worker=attributes/agent-worker-number

# Runs on every host of a TPU slice, as root, at every boot: starts the run's container, and restarts
# it until the run is finished. launch/tpu_vm.py writes the header above it, which sets
#   image         container image
#   options       further options of docker run
#   command       command of mae-jax
#   mounts        NFS exports, as server:/export:/path
#   delete        command that deletes the TPU; empty to keep it
#   max_restarts  restarts of a container, at most
#   stop_file     file that `stop` creates, after which nothing restarts
#   worker        metadata attribute with the host's number in the slice; empty for a single host
set -uo pipefail
export HOME=/root

metadata() {
  curl --silent --fail --header "Metadata-Flavor: Google" \
    "http://metadata.google.internal/computeMetadata/v1/instance/$1"
}

for mount in "${mounts[@]}"; do
  path=${mount##*:}
  mountpoint --quiet "$path" && continue
  command -v mount.nfs >/dev/null || { apt-get update && apt-get install --yes nfs-common; }
  mkdir --parents "$path"
  for _ in {1..30}; do
    mount -t nfs "${mount%:*}" "$path" && continue 2
    sleep 10
  done
  echo "launch: ${mount%:*} cannot be mounted"
  exit 1
done

command -v docker >/dev/null || { apt-get update && apt-get install --yes docker.io; }
registry=${image%%/*}
if [[ $registry == *.pkg.dev || $registry == *gcr.io ]]; then
  gcloud auth configure-docker "$registry" --quiet
fi

for ((restart = 0; restart <= max_restarts; restart++)); do
  docker rm --force mae-jax >/dev/null 2>&1
  # The TPU and its metadata need --privileged, root and the host's network; data workers need
  # the host's /dev/shm.
  docker run --name mae-jax --privileged --user=root --network=host --ipc=host --stop-timeout=180 \
    "${options[@]}" "$image" "${command[@]}"
  status=$?
  case $status in
    0)
      # Process 0 ends last, since it writes the model, so its host deletes the TPU.
      echo "launch: finished"
      if ((${#delete[@]})) && [[ -z $worker || $(metadata "$worker") == 0 ]]; then
        zone=$(metadata zone)
        "${delete[@]}" --zone="${zone##*/}"
      fi
      exit 0
      ;;
    2 | 130)
      echo "launch: wrong input (2) or interrupted (130): status $status; not restarted"
      exit "$status"
      ;;
  esac
  if [[ -e $stop_file ]]; then
    echo "launch: stopped"
    exit 0
  fi
  # Also after a preemption (75): another host of the slice may have been stopped, and boots.
  echo "launch: not finished (status $status); restarting"
  sleep 30
done
echo "launch: not finished after $max_restarts restarts; not restarted"
exit 1
END_OF_DOCUMENT
