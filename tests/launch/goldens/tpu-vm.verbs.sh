# status vitl8 --zone us-east5-a
gcloud compute tpus tpu-vm describe vitl8 \
  --zone=us-east5-a \
  '--format=yaml(name,state,health)'
# logs vitl8 --zone us-east5-a
gcloud compute tpus tpu-vm ssh vitl8 \
  --zone=us-east5-a \
  --worker=0 \
  '--command=sudo docker logs --tail=100 --follow mae-jax'
# logs --process 3 vitl8 --zone us-east5-a
gcloud compute tpus tpu-vm ssh vitl8 \
  --zone=us-east5-a \
  --worker=3 \
  '--command=sudo docker logs --tail=100 --follow mae-jax'
# stop vitl8 --zone us-east5-a
gcloud compute tpus tpu-vm ssh vitl8 \
  --zone=us-east5-a \
  --worker=all \
  '--command=sudo touch /run/mae-jax.stop; sudo docker stop -t 180 mae-jax' || true
gcloud compute tpus tpu-vm delete vitl8 --zone=us-east5-a --quiet
