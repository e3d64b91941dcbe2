# status vitl8 --context lab
kubectl get jobs,pods \
  --selector=app.kubernetes.io/instance=vitl8 \
  --output=wide \
  --context=lab
# logs vitl8 --context lab
kubectl logs \
  --selector=app.kubernetes.io/instance=vitl8,batch.kubernetes.io/job-completion-index=0 \
  --tail=100 \
  --prefix \
  --follow \
  --context=lab
# logs --process 3 vitl8 --context lab
kubectl logs \
  --selector=app.kubernetes.io/instance=vitl8,batch.kubernetes.io/job-completion-index=3 \
  --tail=100 \
  --prefix \
  --follow \
  --context=lab
# stop vitl8 --context lab
kubectl delete jobs,services,serviceaccounts,roles,rolebindings \
  --selector=app.kubernetes.io/instance=vitl8 \
  --context=lab
