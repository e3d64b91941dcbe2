# status vitl8 --zone us-east5-a --project lab
gcloud compute tpus queued-resources describe vitl8 \
  --zone=us-east5-a \
  --project=lab \
  '--format=yaml(name,state,tpu.nodeSpec[].nodeId)'
# logs vitl8 --zone us-east5-a --project lab
gcloud compute tpus tpu-vm ssh vitl8 \
  --zone=us-east5-a \
  --project=lab \
  --worker=0 \
  '--command=sudo docker logs --tail=100 --follow mae-jax'
# logs --process 3 vitl8 --zone us-east5-a --project lab
gcloud compute tpus tpu-vm ssh vitl8 \
  --zone=us-east5-a \
  --project=lab \
  --worker=3 \
  '--command=sudo docker logs --tail=100 --follow mae-jax'
# stop vitl8 --zone us-east5-a --project lab
gcloud compute tpus tpu-vm ssh vitl8 \
  --zone=us-east5-a \
  --project=lab \
  --worker=all \
  '--command=sudo touch /run/mae-jax.stop; sudo docker stop -t 180 mae-jax' || true
gcloud compute tpus queued-resources delete vitl8 \
  --zone=us-east5-a \
  --project=lab \
  --force \
  --quiet
