# status vitl8
squeue --user=ada --name=vitl8 '--format=%.18i %.12T %.12M %.12l %.6D %R'
sacct \
  --user=ada \
  --name=vitl8 \
  --allocations \
  --starttime=now-30days \
  --format=JobID,State,Elapsed,Start,End,ExitCode || true
# logs vitl8
tail -n 100 -F /home/ada/mae-jax-logs/vitl8-0.log
# logs --process 3 vitl8
tail -n 100 -F /home/ada/mae-jax-logs/vitl8-3.log
# stop vitl8
scancel --user=ada --name=vitl8
