# status vitl8 --namespace cells
kubectl get jobsets,jobs,pods \
  --selector=app.kubernetes.io/instance=vitl8 \
  --output=wide \
  --namespace=cells
# logs vitl8 --namespace cells
kubectl logs \
  --selector=app.kubernetes.io/instance=vitl8,batch.kubernetes.io/job-completion-index=0 \
  --tail=100 \
  --prefix \
  --follow \
  --namespace=cells
# logs --process 3 vitl8 --namespace cells
kubectl logs \
  --selector=app.kubernetes.io/instance=vitl8,batch.kubernetes.io/job-completion-index=3 \
  --tail=100 \
  --prefix \
  --follow \
  --namespace=cells
# stop vitl8 --namespace cells
kubectl delete jobsets,jobs,services,serviceaccounts,roles,rolebindings \
  --selector=app.kubernetes.io/instance=vitl8 \
  --namespace=cells
