# status vitl8
kubectl get jobsets,jobs,pods --selector=app.kubernetes.io/instance=vitl8 --output=wide
# logs vitl8
kubectl logs \
  --selector=app.kubernetes.io/instance=vitl8,batch.kubernetes.io/job-completion-index=0 \
  --tail=100 \
  --prefix \
  --follow
# logs --process 3 vitl8
kubectl logs \
  --selector=app.kubernetes.io/instance=vitl8,batch.kubernetes.io/job-completion-index=3 \
  --tail=100 \
  --prefix \
  --follow
# stop vitl8
kubectl delete jobsets,jobs,services,serviceaccounts,roles,rolebindings \
  --selector=app.kubernetes.io/instance=vitl8
