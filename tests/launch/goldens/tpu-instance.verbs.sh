# status vitl8 --zone us-central1-c
gcloud compute instances describe vitl8 \
  --zone=us-central1-c \
  '--format=yaml(name,status,lastStartTimestamp)'
# logs vitl8 --zone us-central1-c
gcloud compute ssh vitl8 \
  --zone=us-central1-c \
  '--command=sudo docker logs --tail=100 --follow mae-jax'
# stop vitl8 --zone us-central1-c
gcloud compute ssh vitl8 \
  --zone=us-central1-c \
  '--command=sudo touch /run/mae-jax.stop; sudo docker stop -t 180 mae-jax' || true
gcloud compute instances delete vitl8 --zone=us-central1-c --quiet
